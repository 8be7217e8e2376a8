"""Small recommenders of random numbers, and artefacts of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from penstock.artifact.recommender_export import to_onnx
from penstock.recommend.model import Recommender

LIMITS = {"history": 50, "exclude": 60, "k": 100, "batch": 4}


def recommender(
    count: int = 40,
    neighbours: int = 10,
    *,
    seed: int = 0,
    half_life: float | None = 3.0,
    max_history: int = 6,
    pool: int = 20,
) -> Recommender:
    draws = np.random.default_rng(seed)
    near = np.stack([draws.choice(count, neighbours, replace=False) for _ in range(count)])
    weights = draws.normal(size=near.shape)
    weights[draws.random(near.shape) < 0.2] = 0.0
    near[weights == 0] = count
    vectors = draws.normal(size=(count, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Recommender(
        ids=draws.choice(10 * count, count, replace=False).astype(np.int64),
        popularity=np.sort(draws.random(count).astype(np.float32))[::-1].copy(),
        neighbours=near.astype(np.int32),
        weights=weights.astype(np.float16).astype(np.float32),
        vectors=vectors.astype(np.float16).astype(np.float32),
        half_life=half_life,
        floor=0.02,
        max_history=max_history,
        pool=pool,
    )


def write_artefact(folder: Path, model: Recommender, **changes: object) -> Path:
    """model.onnx, items.json and manifest.json of ``model``, as the stage writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    content = to_onnx(model, "toy")
    (folder / "model.onnx").write_bytes(content)
    ids = model.ids.tolist()
    items = json.dumps(
        {
            "id": ids,
            "key": [f"k{id_}" for id_ in ids],
            "title": [f"Film {id_}" for id_ in ids],
            "genres": [["Drama"] if id_ % 2 else [] for id_ in ids],
            "year": [1990 + id_ % 10 for id_ in ids],
            "popularity": list(range(len(ids), 0, -1)),
        }
    ).encode()
    (folder / "items.json").write_bytes(items)
    manifest = {
        "format": 1,
        "kind": "interactions",
        "name": "toy",
        "title": "Toy",
        "task": "interactions",
        "sha256": hashlib.sha256(content).hexdigest(),
        "items_sha256": hashlib.sha256(items).hexdigest(),
        "opset": {"ai.onnx": 20, "ai.onnx.ml": 3},
        "inputs": [
            {"name": "items", "element": "int64", "shape": ["batch", "history"]},
            {"name": "exclude", "element": "int64", "shape": ["batch", "excluded"]},
            {"name": "k", "element": "int64", "shape": []},
            {"name": "diversity", "element": "float", "shape": []},
        ],
        "outputs": [
            {"name": "recommended", "element": "int64", "shape": ["batch", "k"]},
            {"name": "scores", "element": "float", "shape": ["batch", "k"]},
            {"name": "because", "element": "int64", "shape": ["batch", "k"]},
        ],
        "order": "oldest_first",
        "items": len(ids),
        "voting": model.max_history,
        "pool": model.pool,
        "limits": LIMITS,
        "model": "toy",
        "metrics": {},
        "parameters": {},
        "data_sha256": "",
        "code_sha256": "",
        "versions": {},
    } | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
