"""`kill -9` in the middle of every stage: `dvc repro` goes on and ends with the same hashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

STAGES = (
    "ingest",
    "profile",
    "prepare",
    "features",
    "validate",
    "train",
    "export",
    "evaluate",
    "predict",
    "report",
)


def lock(root: Path) -> dict:
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"]


def busy_stage(dvc: psutil.Process, name: str) -> psutil.Process | None:
    for child in dvc.children(recursive=True):
        try:
            if f"stages.{name}" in child.cmdline() and Path(child.exe()).name.startswith("python"):
                return child
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return None


def kill_in(clone, name: str, processor_seconds: float) -> bool:
    """Start `dvc repro`; once the stage has worked for so long, kill it and DVC at once. True if it was caught."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=clone.root,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    dvc = psutil.Process(process.pid)
    caught = False
    while process.poll() is None:
        try:
            stage = busy_stage(dvc, name)
            if stage is not None and sum(stage.cpu_times()[:2]) >= processor_seconds:
                os.killpg(process.pid, signal.SIGKILL)
                caught = True
                break
        except psutil.NoSuchProcess:
            continue
    process.wait()
    return caught


@pytest.mark.parametrize("processor_seconds", [0.05, 0.6])
def test_a_killed_graph_ends_with_the_same_hashes(fresh_clone, processor_seconds):
    whole = fresh_clone("whole")
    whole.compose("experiment=quick")
    whole.run(sys.executable, "-m", "dvc", "repro")
    killed = fresh_clone("killed")
    killed.compose("experiment=quick")
    caught = [name for name in STAGES if kill_in(killed, name, processor_seconds)]
    if processor_seconds < 0.1:
        assert caught == list(STAGES)
    assert len(caught) >= len(STAGES) // 2
    killed.run(sys.executable, "-m", "dvc", "repro")
    stages = [f"{name}@churn" for name in STAGES]
    assert {name: lock(killed.root)[name] for name in stages} == {
        name: lock(whole.root)[name] for name in stages
    }
    assert not list(killed.root.glob("*/**/*.tmp"))
