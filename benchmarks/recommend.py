"""One list of ten for one user, and many at once: the ONNX file beside implicit's ALS, in one process on one core.

ALS is asked in two ways: by the factors of a user whom it was trained on, and by a history, as an online recommender
has it, for which it folds the user in. The file is always asked by a history. They take turns.

    python benchmarks/recommend.py [--model models/ratings] [--calls 300]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import stages  # noqa: E402, F401  (pins threads before NumPy is imported)

BATCH = 64
HISTORIES = (5, 50, 500)


def taken(calls: dict[str, Callable[[], object]], count: int) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile of each call in milliseconds, taken in turns."""
    import numpy as np

    times: dict[str, list[int]] = {name: [] for name in calls}
    for turn in range(count + 5):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            call()
            if turn >= 5:  # the first ones allocate
                times[name].append(time.perf_counter_ns() - start)
    return {
        name: (float(np.percentile(each, 50)) / 1e6, float(np.percentile(each, 99)) / 1e6)
        for name, each in times.items()
    }


def told(title: str, found: dict[str, tuple[float, float]], each: int = 1) -> None:
    first = next(iter(found.values()))[0]
    print(f"\n{title}")
    for name, (median, high) in found.items():
        print(
            f"  {name:34} p50 {median / each:7.3f} ms   p99 {high / each:7.3f} ms   {median / first:6.2f} x the file"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models/ratings")
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()

    import warnings

    import numpy as np
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy import sparse

    from penstock.artifact.recommender_model import load

    start = time.perf_counter()
    model = load(options.model)
    size = (options.model / "model.onnx").stat().st_size / 2**20
    print(
        f"{model.manifest.items} items, {size:.1f} MiB, loaded in {time.perf_counter() - start:.2f} s; one core"
    )

    # Histories by popularity, for the file and for ALS: how long an answer takes does not depend on taste.
    draws = np.random.default_rng(0)
    ids = np.array(list(model.items))
    weight = np.array([item.popularity for item in model.items.values()], dtype=np.float64)
    weight /= weight.sum()
    users = 700
    rows = [draws.choice(len(ids), draws.integers(20, 300), replace=False, p=weight) for _ in range(users)]
    pointers = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate([np.sort(row) for row in rows])
    matrix = sparse.csr_matrix(
        (np.ones(len(columns), np.float32), columns, pointers), shape=(users, len(ids))
    )
    als: Any = AlternatingLeastSquares(factors=64, iterations=5, num_threads=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        als.fit(matrix, show_progress=False)

    nobody = np.zeros(1, dtype=np.int64)
    for length in HISTORIES:
        places = draws.choice(len(ids), length, replace=False)
        history = ids[places].tolist()
        one = sparse.csr_matrix(
            (np.ones(length, np.float32), np.sort(places), [0, length]), shape=(1, len(ids))
        )
        told(
            f"one request, a history of {length}",
            taken(
                {
                    "the file": lambda history=history: model.recommend([history], k=10),
                    "the file, diversity 0.3": lambda history=history: model.recommend(
                        [history], k=10, diversity=0.3
                    ),
                    "implicit, known user": lambda one=one: als.recommend(0, one, N=10),
                    "implicit, folded in": lambda one=one: als.recommend(0, one, N=10, recalculate_user=True),
                },
                options.calls,
            ),
        )
    some = matrix[:BATCH]
    histories = [ids[row].tolist() for row in rows[:BATCH]]
    everyone = np.arange(BATCH) + nobody
    told(
        f"{BATCH} requests at once, each",
        taken(
            {
                "the file": lambda: model.recommend(histories, k=10),
                "implicit, known users": lambda: als.recommend(everyone, some, N=10),
                "implicit, folded in": lambda: als.recommend(everyone, some, N=10, recalculate_user=True),
            },
            max(5, options.calls // 10),
        ),
        each=BATCH,
    )


if __name__ == "__main__":
    main()
