"""Terraform, run from a folder of ours: the repository's folder holds what is declared, never a state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError
from penstock.storage import write_text

__all__ = ["Terraform"]

WAIT = "-lock-timeout=10m"  # for somebody else's change
NOTHING, CHANGES = 0, 2  # exit codes of `plan -detailed-exitcode`


class Terraform:
    """One state of one declaration.

    Args:
        source: The folder of .tf files.
        work: Where state, plugins and values go.
        values: Of the variables.
        backend: Settings of an S3 backend; None keeps the state in ``work``.
    """

    def __init__(
        self, source: Path, work: Path, values: Mapping[str, Any], backend: Mapping[str, str | bool] | None
    ) -> None:
        self.source = source
        self.work = work.resolve()
        self.values = values
        self.backend = backend
        self._marker = self.work / "applying"

    @property
    def state(self) -> Path:
        """Of the local backend."""
        return self.work / "terraform.tfstate"

    def _run(
        self, *arguments: str, capture: bool = False, ends: tuple[int, ...] = (0,), marked: bool = False
    ) -> subprocess.CompletedProcess[str]:
        program = shutil.which("terraform")
        if program is None:
            raise PenstockError(
                "terraform is not here",
                hint="install it, 1.10 or later: https://developer.hashicorp.com/terraform/install",
            )
        environment = os.environ | {
            "TF_DATA_DIR": str(self.work / "data"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
        }
        plain = [] if sys.stdout.isatty() else ["-no-color"]
        verb, *rest = arguments
        pipe = subprocess.PIPE if capture else None
        with subprocess.Popen(
            [program, f"-chdir={self.work / 'source'}", verb, *plain, *rest],
            env=environment,
            text=True,
            stdout=pipe,
            stderr=pipe,
        ) as process:
            if marked:
                write_text(self._marker, str(process.pid))
            out, err = process.communicate()
        if marked:
            self._marker.unlink()  # it has ended by itself, well or not, and its state is written
        if process.returncode not in ends:
            told = f": {(err or '').strip()[-1500:]}" if capture else ", see above"
            raise PenstockError(
                f"terraform {verb} ended with {process.returncode}{told}",
                hint="the same command goes on from where it ended",
            )
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def killed(self) -> bool:
        """Whether the last change was cut off: what it had made last may be there without the state's knowing."""
        if not self._marker.is_file():
            return False
        try:
            os.kill(int(self._marker.read_text(encoding="utf-8")), 0)
        except (ProcessLookupError, ValueError):
            return True
        return False  # it runs, and holds the lock, which is waited for

    def unlock(self, lock: str) -> None:
        """Take away the lock of a change that was cut off."""
        self._run("force-unlock", "-force", lock, capture=True)

    def prepare(self) -> None:
        """Copy what is declared, write the values, and find the provider.

        Raises:
            PenstockError: Terraform or its provider is not to be had.
        """
        folder = self.work / "source"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.tf"):
            old.unlink()
        for path in [*self.source.glob("*.tf"), self.source / ".terraform.lock.hcl"]:
            shutil.copyfile(path, folder / path.name)
        kind, settings = (
            ("local", {"path": str(self.state)}) if self.backend is None else ("s3", dict(self.backend))
        )
        lines = "".join(f"    {key} = {json.dumps(value)}\n" for key, value in settings.items())
        write_text(folder / "backend.tf", f'terraform {{\n  backend "{kind}" {{\n{lines}  }}\n}}\n')
        self._write_values(self.values)
        self._run("init", "-lockfile=readonly", "-reconfigure", capture=True)

    def _write_values(self, values: Mapping[str, Any]) -> None:
        write_text(self.work / "source" / "penstock.auto.tfvars.json", json.dumps(values, indent=2))

    def plan(self, *, quiet: bool = False) -> bool:
        """Say what would change; whether anything would."""
        done = self._run("plan", "-detailed-exitcode", capture=quiet, ends=(NOTHING, CHANGES))
        return done.returncode == CHANGES

    def planned(self) -> dict[str, Any]:
        """The plan as data: https://developer.hashicorp.com/terraform/internals/json-format."""
        path = self.work / "plan"
        self._run("plan", f"-out={path}", capture=True)
        found: dict[str, Any] = json.loads(self._run("show", "-json", str(path), capture=True).stdout)
        path.unlink()
        return found

    def apply(self, existing: Callable[[str, dict[str, Any]], str | None] | None = None) -> None:
        """Make it so.

        Args:
            existing: Of a kind of resource and its planned values, by which identity it is there; None if it is not. Asked after a
                change was cut off: what it had made is then taken into the state, rather than made again and found to be there.
        """
        adopted = self.work / "source" / "adopted.tf"
        if existing is not None and self.killed():
            blocks = []
            for item in self.planned()["resource_changes"]:
                if item["change"]["actions"] == ["create"]:
                    identity = existing(item["type"], item["change"]["after"])
                    if identity is not None:
                        blocks.append(
                            f"import {{\n  to = {item['address']}\n  id = {json.dumps(identity)}\n}}\n"
                        )
            write_text(adopted, "".join(blocks))
        self._run("apply", "-auto-approve", WAIT, marked=True)
        adopted.unlink(missing_ok=True)

    def destroy(self, **values: Any) -> None:
        """Take it all away.

        Args:
            values: Of variables that must be in the state before, such as whether a bucket may be emptied.
        """
        if values:
            self._write_values({**self.values, **values})
            self._run("apply", "-auto-approve", WAIT, marked=True)
        self._run("destroy", "-auto-approve", WAIT, marked=True)

    def outputs(self) -> dict[str, Any]:
        """What it tells of what it made."""
        found = json.loads(self._run("output", "-json", capture=True).stdout)
        return {name: item["value"] for name, item in found.items()}
