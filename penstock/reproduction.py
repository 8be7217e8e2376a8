"""Does a fresh clone arrive at the committed dvc.lock? Builds the graph in clones without a cache and compares.

Tables do so hash for hash on any x86-64 machine. What a network learns has other last bits on another
processor, and after a few hundred steps other digits: those stages are held to their figures, within
``TOLERANCE``, and to their hashes only among clones that were built on one machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from penstock.console import say
from penstock.errors import PenstockError
from penstock.reproducible import available_cores
from penstock.storage import read_json

__all__ = ["Difference", "arrived", "exact", "first_difference", "reproduce"]

# Stages whose outputs come of a network's arithmetic.
LEARNT = tuple(
    f"images_{name}@" for name in ("features", "head", "finetune", "scratch", "export", "evaluate", "report")
)
PHASES = ("head", "finetune", "scratch")
# Of top-1 on the hold-out: some three standard errors of a thousand pictures judged by two networks that agree on most.
TOLERANCE = 0.03


def exact(stages: Iterable[str]) -> list[str]:
    """The stages that give the same bytes on every machine."""
    return [name for name in stages if not name.startswith(LEARNT)]


@dataclass(frozen=True)
class Difference:
    """The first place at which two lock files part.

    Attributes:
        stage: The stage's name.
        what: "outs", "deps", "params" or "cmd", and for an output or a dependency its path.
        left: What the one says.
        right: What the other says.
    """

    stage: str
    what: str
    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.what}: {self.left} here, {self.right} there"


def first_difference(
    left: Mapping[str, Any], right: Mapping[str, Any], order: Sequence[str] | None = None
) -> Difference | None:
    """The first stage, and in it the first entry, that differs between two parsed lock files.

    Args:
        left: A parsed dvc.lock.
        right: Another one.
        order: Stages to compare, in the order in which the graph runs them; all of both by default, so
            that a stage which only one has is a difference.
    """
    one, other = left.get("stages", {}), right.get("stages", {})
    for stage in order if order is not None else sorted({*one, *other}):
        if stage not in one or stage not in other:
            missing = "is missing"
            return Difference(
                stage,
                "stage",
                "is there" if stage in one else missing,
                "is there" if stage in other else missing,
            )
        # Inputs first: an output that differs because its input does is not where it began.
        for part in ("cmd", "params", "deps", "outs"):
            for what, mine, theirs in _entries(one[stage].get(part), other[stage].get(part), part):
                if mine != theirs:
                    return Difference(stage, what, str(mine), str(theirs))
    return None


def _entries(mine: Any, theirs: Any, part: str) -> Iterator[tuple[str, Any, Any]]:
    if part in {"deps", "outs"}:
        hashes = [{item["path"]: item.get("md5") for item in side or ()} for side in (mine, theirs)]
        for path in sorted({*hashes[0], *hashes[1]}):
            yield f"{part}: {path}", hashes[0].get(path), hashes[1].get(path)
    else:
        yield part, mine, theirs


def reproduce(root: Path, *, clones: int = 2, dataset: str | None = None) -> Difference | None:
    """Build the graph in fresh clones of the last commit, each without a cache, and compare their locks.

    Args:
        root: The repository.
        clones: How many to build, side by side.
        dataset: Build the stages of one data set only.

    Returns:
        The first difference among the clones and the committed dvc.lock; None if there is none.

    Raises:
        PenstockError: A clone cannot be made, or its graph fails.
    """
    if _git(root, "status", "--porcelain"):
        say("note: the working tree has changes that are not committed; clones hold the last commit")
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        places = [Path(folder) / f"clone{number}" / "penstock" for number in range(clones)]
        cores = max(1, available_cores() // clones)
        with ThreadPoolExecutor(clones) as pool:
            locks = list(pool.map(lambda place: _built(root, place, dataset, cores), places))
        committed = _lock(root, _git(root, "show", "HEAD:dvc.lock"))
    stages = [name for name in committed["stages"] if dataset is None or name.endswith(f"@{dataset}")]
    if not stages:
        raise PenstockError(
            f"dvc.lock: no stage of the data set {dataset!r}", hint="run `dvc repro` and commit dvc.lock"
        )
    for lock in locks:
        difference = first_difference(committed, lock, exact(stages)) or first_difference(
            locks[0], lock, stages
        )
        if difference:
            return difference
    return None


def arrived(root: Path) -> Difference | None:
    """Compare what was built here with the last commit: hashes, and of networks the hold-out figures.

    Raises:
        PenstockError: The graph was not built.
    """
    committed = _lock(root, _git(root, "show", "HEAD:dvc.lock"))
    here = _lock(root, (root / "dvc.lock").read_text(encoding="utf-8"))
    difference = first_difference(here, committed, exact(sorted({*here["stages"], *committed["stages"]})))
    if difference:
        return difference
    evaluated = [name for name in committed["stages"] if name.startswith("images_evaluate@")]
    for stage in evaluated:
        path = Path("reports") / stage.partition("@")[2] / "evaluation.json"
        mine, theirs = read_json(root / path), json.loads(_git(root, "show", f"HEAD:{path}"))
        for phase in PHASES:
            found, said = mine[phase]["top1"], theirs[phase]["top1"]
            if abs(found - said) > TOLERANCE:
                return Difference(stage, f"{path}: {phase}.top1", str(found), str(said))
    return None


def _built(root: Path, place: Path, dataset: str | None, cores: int) -> dict[str, Any]:
    _git(root, "clone", "--quiet", "--no-hardlinks", str(root.resolve()), str(place))
    targets = ["--glob", f"*@{dataset}"] if dataset else []
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # The clone's own code, not an editable install of this one.
        "PYTHONPATH": str(place),
        "PENSTOCK_CORES": str(cores),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", *targets],
        cwd=place,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PenstockError(f"the graph fails in a fresh clone:\n{(done.stdout + done.stderr)[-3000:]}")
    return _lock(place, (place / "dvc.lock").read_text(encoding="utf-8"))


def _lock(place: Path, text: str) -> dict[str, Any]:
    lock = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  (both are safe)
    if not isinstance(lock, dict) or "stages" not in lock:
        raise PenstockError(f"{place}/dvc.lock: not a lock file of DVC", hint="run `dvc repro`")
    return lock


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PenstockError(f"git {arguments[0]} failed in {root}: {done.stderr.strip()}")
    return done.stdout
