"""Fresh copies of the repository, with a git of their own and no cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Repository:
    """A copy of the working tree as a fresh clone would hold it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),
            "DVC_NO_ANALYTICS": "1",
            "COLUMNS": "120",
        }

    def run(self, *command: str | Path, check: bool = True, **kwargs) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            **kwargs,
        )
        if check and done.returncode:
            pytest.fail(
                f"{' '.join(map(str, command))} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def stage(self, name: str, dataset: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", f"stages.{name}", dataset, check=False)

    def compose(self, *overrides: str) -> None:
        self.run(sys.executable, "-m", "penstock.cli", "params", *overrides)


def tracked_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture
def fresh_clone(tmp_path: Path) -> Callable[[str], Repository]:
    """Makes copies of the repository: what git has or would have, committed, without a cache."""

    def make(name: str = "clone") -> Repository:
        root = tmp_path / name
        for file in tracked_files():
            target = root / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target)
        clone = Repository(root)
        for command in (
            ("git", "init", "--quiet", "--initial-branch=main"),
            ("git", "config", "user.email", "test@localhost"),
            ("git", "config", "user.name", "test"),
            ("git", "add", "--all"),
            ("git", "commit", "--quiet", "--message", "start"),
        ):
            clone.run(*command)
        return clone

    return make
