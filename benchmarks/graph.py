"""What the graph costs over doing the same work in one process: `dvc repro` against one plain script.

All sides run the same stage functions on the same data sets, in fresh copies of the repository without outputs and
without a cache, one after the other. The script imports everything once, hashes nothing, restores nothing and
forgets everything; the graph starts a process for each of its forty stages and records what it did.

"fresh clone" is what `make run` does in one: the committed dvc.lock is there, and every stage arrives at its entry.
"without dvc.lock" is the first run of a project, or a change to everything: DVC then reads and rewrites its lock file
after each stage, in pure Python.

    python benchmarks/graph.py [--rounds 1] [--cores 2]
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


def copy_to(folder: Path, *, with_lock: bool) -> Path:
    """The files that git has, with a git and a DVC of their own, without outputs and without a cache."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and (with_lock or name != "dvc.lock"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def timed(command: list[str], cores: set[int], *, with_lock: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        place = copy_to(Path(folder), with_lock=with_lock)
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
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    cores = set(sorted(os.sched_getaffinity(0))[: options.cores])
    repro = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    sides = {
        "one script": ([sys.executable, "-c", SCRIPT], False),
        "dvc repro, fresh clone": (repro, True),
        "dvc repro, without dvc.lock": (repro, False),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, (command, with_lock) in sides.items():
            times[name].append(timed(command, cores, with_lock=with_lock))
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        ratio = seconds / medians["one script"]
        print(f"{name}, {len(cores)} cores: {seconds:.1f} s, ratio {ratio:.2f}")
    print("aim: a fresh clone in at most 1.3 times the script, and in under 240 s")


if __name__ == "__main__":
    main()
