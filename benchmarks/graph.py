"""What the graph costs over doing the same work in one process: `dvc repro` against one plain script.

Both run the same stage functions on the same data sets from nothing, one after the other, in fresh copies of
the repository without a cache, and alternate. The script imports everything once, hashes nothing, restores
nothing and forgets everything; the graph starts a process for each of its stages and records what it did.

    python benchmarks/graph.py [--rounds 2] [--cores 2]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import importlib, sys
import stages
from penstock.config import STAGES, load
for stage in STAGES:
    main = importlib.import_module(f"stages.{stage}").main
    for name in load().names:
        main(name)
"""


def copy_to(folder: Path) -> Path:
    """The files that git has, with a git and a DVC of their own, without outputs and without a cache."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("reports/") and name != "dvc.lock":
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def timed(command: list[str], cores: set[int]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        place = copy_to(Path(folder))
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(place),
        }
        # Compiled once before the clock starts: both sides import compiled modules.
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", "penstock", "stages"], cwd=place, check=True
        )
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        elapsed = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
        return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    cores = set(sorted(os.sched_getaffinity(0))[: options.cores])
    commands = {
        "dvc repro": [sys.executable, "-m", "dvc", "repro", "--quiet"],
        "one script": [sys.executable, "-c", SCRIPT],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(options.rounds):
        for name in sorted(commands, reverse=bool(number % 2)):
            times[name].append(timed(commands[name], cores))
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["dvc repro"] / medians["one script"]
    print(
        f"cold graph on {len(cores)} cores: {medians['dvc repro']:.1f} s, one script: {medians['one script']:.1f} s, "
        f"ratio {ratio:.2f} (aim: at most 1.3); whole graph aim: under 240 s"
    )


if __name__ == "__main__":
    main()
