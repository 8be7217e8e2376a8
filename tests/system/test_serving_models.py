"""What the predictor answers is what `penstock predict` writes, over the rows that the graph has held out."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from PIL import Image

from penstock.artifact.model import load
from penstock.artifact.picture_model import load as load_pictures
from penstock.artifact.picture_score import score_pictures, wanted
from penstock.artifact.score import score_frame
from penstock.config.serving import Serve
from penstock.serving.application import create_app

ROOT = Path(__file__).parents[2]
TABLES = ["churn", "housing", "caravan", "watch"]
AT_ONCE = 250


def served(name: str, ask: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Ask a predictor of one model, in this process."""
    folder = ROOT / "models" / name
    assert (folder / "manifest.json").is_file(), (
        f"models/{name} is not here: `make run` makes it, `dvc pull` fetches it"
    )

    async def asked() -> Any:
        app = create_app(Serve.model_validate({"models": {name: {"path": str(folder)}}}))
        await app.open()
        try:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await ask(client)
        finally:
            await app.close()

    return asyncio.run(asked())


def held_out(name: str) -> pl.DataFrame:
    return pl.read_parquet(ROOT / "data/prepared" / name / "holdout.parquet")


def flat(answers: list[dict[str, Any]]) -> pl.DataFrame:
    """Answers as `penstock predict` has them."""
    return pl.DataFrame(
        [
            {key: value for key, value in answer.items() if key != "probabilities"}
            | {f"probability_{key}": value for key, value in answer.get("probabilities", {}).items()}
            for answer in answers
        ]
    )


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.columns == expected.columns
    for name in expected.columns:
        if expected[name].dtype == pl.String:
            assert found[name].to_list() == expected[name].to_list()
        else:
            # As many rows as share a run decide how it is added up: the last bit may differ.
            np.testing.assert_allclose(
                found[name].to_numpy(), expected[name].to_numpy(), rtol=2e-6, atol=2e-7
            )


@pytest.mark.parametrize("name", TABLES)
def test_each_row_held_out_is_answered_as_it_is_predicted(name):
    model, frame = load(ROOT / "models" / name), held_out(name)
    columns = list(model.manifest.columns)
    expected, checked = score_frame(model, frame, source=name)
    assert not checked.bad.height
    rows = frame.select(columns).to_dicts()

    async def ask(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        found = []
        for start in range(0, len(rows), AT_ONCE):
            body = {"rows": rows[start : start + AT_ONCE]}
            answer = await client.post(f"/v1/models/{name}/predict", json=body)
            assert answer.status_code == 200, answer.text
            found += answer.json()["rows"]
        for row, together in list(zip(rows, found, strict=True))[:20]:
            alone = await client.post(f"/v1/models/{name}/predict", json={"rows": [row]})
            assert_same(flat(alone.json()["rows"]), flat([together]))
        return found

    assert_same(flat(served(name, ask)), expected.drop("position"))


@pytest.mark.parametrize("name", ["churn", "housing"])
def test_what_the_contract_rejects_is_refused_and_nothing_else(name):
    """Every fifth row is given a value that breaks its contract, or that only looks as if it did."""
    model, frame = load(ROOT / "models" / name), held_out(name).head(300)
    columns = list(model.manifest.columns)
    text = frame.select(pl.col(column).cast(pl.String) for column in columns)
    odd = ["abc", " 1.0 ", "-999", "", "yes", "1e300", "Nobody"]
    values = {column: text[column].to_list() for column in columns}
    for place, at in enumerate(range(0, 300, 5)):
        values[columns[place % len(columns)]][at] = odd[place % len(odd)]
    spoilt = pl.DataFrame(values, schema=dict.fromkeys(columns, pl.String))
    expected, checked = score_frame(model, spoilt, source=name)
    bad = set(checked.bad["position"].to_list())
    assert 20 < len(bad) < 60
    rows = spoilt.to_dicts()

    async def ask(client: httpx.AsyncClient) -> tuple[list[dict[str, Any]], Any]:
        together = await client.post(f"/v1/models/{name}/predict", json={"rows": rows})
        assert together.status_code == 422
        good = [row for at, row in enumerate(rows) if at not in bad]
        answer = await client.post(f"/v1/models/{name}/predict", json={"rows": good})
        assert answer.status_code == 200, answer.text
        return answer.json()["rows"], together.json()["errors"]

    answers, errors = served(name, ask)
    assert {error["row"] for error in errors} == bad
    told = {at: [] for at in bad}
    for error in errors:
        told[error["row"]].append(f"{error['column']}: {error['message']}")
    for position, reason in checked.bad.select("position", "reason").iter_rows():
        assert sorted(told[position]) == sorted(reason.split("; "))
    assert_same(flat(answers), expected.drop("position"))


def test_pictures_are_classified_as_files_are(tmp_path):
    random = np.random.default_rng(3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (height, width) in enumerate([(32, 32), (300, 200), (64, 64), (32, 32)]):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    score_pictures(
        load_pictures(ROOT / "models/images"),
        wanted(folder),
        tmp_path / "out.parquet",
        tmp_path / "bad.parquet",
    )
    expected = pl.read_parquet(tmp_path / "out.parquet").sort("path").drop("path")
    files = [path.read_bytes() for path in sorted(folder.iterdir())]

    async def ask(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        rows = [{"picture": base64.b64encode(file).decode()} for file in files]
        answer = await client.post("/v1/models/images/predict", json={"rows": rows})
        assert answer.status_code == 200, answer.text
        broken = {"rows": [rows[0], {"picture": base64.b64encode(files[0][:60]).decode()}]}
        refused = await client.post("/v1/models/images/predict", json=broken)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["row"] == 1
        pixels = np.asarray(Image.open(io.BytesIO(files[0])))
        head = {
            "inputs": [
                {
                    "name": "pictures",
                    "datatype": "UINT8",
                    "shape": [1, 32, 32, 3],
                    "parameters": {"binary_data_size": pixels.size},
                }
            ]
        }
        content = json.dumps(head).encode()
        tensor = await client.post(
            "/v2/models/images/infer",
            content=content + pixels.tobytes(),
            headers={"inference-header-content-length": str(len(content))},
        )
        label, probabilities = tensor.json()["outputs"]
        assert label["data"] == [answer.json()["rows"][0]["label"]]
        assert probabilities["shape"] == [1, 10]
        return answer.json()["rows"]

    assert_same(flat(served("images", ask)), expected)
