"""`kill -9` in the middle of every stage: `dvc repro` goes on and ends with the same hashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
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


def outputs_of(clone, name: str) -> list[Path]:
    stage = yaml.safe_load((clone.root / "dvc.yaml").read_text())["stages"][name]
    stage = stage.get("do", stage)
    outs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    paths = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    return [
        clone.root / path.replace("${key}", "churn").replace("${item.dataset}", "churn") for path in paths
    ]


def is_writing(outs: list[Path]) -> bool:
    """Whether an output, or the temporary file that will be renamed to one, is there. DVC removes them before."""
    return any(out.exists() or list(out.parent.glob(f".{out.name}*.tmp")) for out in outs)


def kill_in(clone, name: str, moment: str) -> bool:
    """Start `dvc repro`, and kill it and its stage at once in the stage's middle. False if that stage never ran."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=clone.root,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    dvc, outs, stage = psutil.Process(process.pid), outputs_of(clone, name), None
    while process.poll() is None:
        try:
            stage = stage or busy_stage(dvc, name)
            if stage is None:
                continue
            at_work = stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE
            reached = sum(stage.cpu_times()[:2]) >= 0.05 if moment == "starting" else is_writing(outs)
        except psutil.NoSuchProcess:
            at_work = reached = False
        # A stage that has ended in the meantime is one that DVC is about to record: as good a moment.
        if stage is not None and (reached or not at_work):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    return stage is not None


def test_a_killed_graph_ends_with_the_same_hashes(fresh_clone):
    whole = fresh_clone("whole")
    whole.compose("experiment=quick")
    whole.run(sys.executable, "-m", "dvc", "repro")
    killed = fresh_clone("killed")
    killed.compose("experiment=quick")
    # Each stage as it begins, and, when it has been started anew, as it writes.
    for name in STAGES:
        for moment in ("starting", "writing"):
            assert kill_in(killed, name, moment), f"{name} never ran"
    killed.run(sys.executable, "-m", "dvc", "repro")
    stages = [f"{name}@churn" for name in STAGES]
    assert {name: lock(killed.root)[name] for name in stages} == {
        name: lock(whole.root)[name] for name in stages
    }
