"""`penstock predict` against the scikit-learn pipeline's own `predict_proba`, on the same file of a million rows.

Each side runs in a process of its own, with the same cores, from the file to the answers on disk. The
pipeline reads the file by polars, derives its columns, and calls `predict_proba`; Penstock checks every row
against the contract besides. Peak memory is what the kernel says of each process.

    python benchmarks/predict.py [--dataset churn] [--rows 1000000] [--cores 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[1]
SKLEARN = """
import sys
import stages
import polars as pl
from pathlib import Path
from penstock.config import load
from penstock.features.columns import as_features, read
from penstock.validation import persistence
dataset, path, out = sys.argv[1:]
settings = load().datasets[dataset]
columns = read(Path("data/features") / dataset / "columns.json")
raw = pl.read_csv(path, schema_overrides=pl.read_parquet_schema(f"data/raw/{dataset}.parquet"))
features = as_features(raw, settings.derive, settings.task).select(columns.features)
pipeline = persistence.load(Path("models") / dataset / "pipeline.skops")
scores = pipeline.predict_proba(features)[:, 1]
pl.DataFrame({"probability": scores}).write_parquet(out)
"""


def measured(command: list[str], cores: set[int]) -> tuple[float, float]:
    """Seconds and peak MiB of a command."""
    import resource  # noqa: F401  (POSIX only, as is this benchmark)

    wrapper = (
        "import os, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "elapsed = time.perf_counter() - start\n"
        "print(code.stderr.decode()[-2000:], file=sys.stderr) if code.returncode else None\n"
        "print(elapsed, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
        "sys.exit(code.returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", wrapper, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds, peak = re.findall(r"[\d.e+-]+", done.stdout)
    return float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="churn")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = set(sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        raw = pl.read_parquet(ROOT / f"data/raw/{options.dataset}.parquet")
        times = options.rows // raw.height + 1
        pl.concat([raw] * times).head(options.rows).write_csv(path)
        penstock = [sys.executable, "-m", "penstock.cli", "predict", f"models/{options.dataset}", str(path)]
        commands = {
            "penstock predict": [*penstock, "-o", f"{folder}/penstock.parquet"],
            "predict_proba": [
                sys.executable,
                "-c",
                SKLEARN,
                options.dataset,
                str(path),
                f"{folder}/sklearn.parquet",
            ],
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(options.rounds):
            for name in sorted(commands, reverse=bool(number % 2)):
                results[name].append(measured(commands[name], cores))
        answers = [
            pl.read_parquet(f"{folder}/{name}.parquet")["probability"] for name in ("penstock", "sklearn")
        ]
        apart = (answers[0] - answers[1]).abs().max()
        print(
            f"{options.rows} rows of {options.dataset}, {len(cores)} cores; answers differ by {apart:.1e} at most"
        )
        for name, runs in results.items():
            seconds = statistics.median(run[0] for run in runs)
            peak = statistics.median(run[1] for run in runs)
            print(f"{name}: {seconds:.2f} s, {options.rows / seconds:,.0f} rows/s, peak {peak:,.0f} MiB")
        slow, fast = (
            statistics.median(run[0] for run in results[name])
            for name in ("predict_proba", "penstock predict")
        )
        print(f"ratio {slow / fast:.2f} (aim: at least 3)")


if __name__ == "__main__":
    main()
