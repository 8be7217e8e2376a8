"""Where an artefact comes from, as a signed attestation beside it: in-toto's statement with SLSA's provenance predicate.

It names a commit and the time of signing, and is therefore never an output of the graph: the same inputs give the same artefact,
and each signing its own attestation. Format: https://slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.artifact.signature import PROVENANCE, enveloped, opened, signed_files
from penstock.errors import PenstockError
from penstock.storage import read_json, write_text

__all__ = ["PREDICATE", "attest", "attested", "statement"]

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "https://penstock.dev/dvc-repro/v1"  # names the kind of build; nothing is fetched from it


def statement(folder: Path, root: Path, *, now: datetime) -> dict[str, Any]:
    """What is said about an artefact.

    Args:
        folder: Of the artefact.
        root: The repository that it was built in.
        now: When this is said.

    Returns:
        An in-toto statement: each file with its hash; the commit, whether the tree was clean, and dvc.lock, that it was built from; hashes of
        data and code and versions of libraries, as its manifest has them.

    Raises:
        PenstockError: There is no artefact.
    """
    manifest = read_json(folder / "manifest.json")
    lock = root / "dvc.lock"
    materials = [
        {"uri": "git+local", "digest": {"gitCommit": commit}} for commit in _git(root, "rev-parse", "HEAD")
    ]
    materials += [_material(f"file:{lock.name}", lock)] if lock.is_file() else []
    for key in ("data_sha256", "code_sha256"):
        if manifest.get(key):
            materials.append({"uri": f"manifest:{key}", "digest": {"sha256": str(manifest[key])}})
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": str(path.relative_to(folder)), "digest": {"sha256": _sha256(path)}}
            for path in signed_files(folder)
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"artefact": str(manifest.get("name", folder.name))},
                "internalParameters": {
                    # A tree with changes is not the commit: whoever verifies has to know.
                    "clean": not _git(root, "status", "--porcelain", "--untracked-files=no"),
                    "versions": manifest.get("versions", {}),
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": "https://penstock.dev/sign"},
                "metadata": {"finishedOn": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
            },
        },
    }


def attest(folder: Path, key: Path, root: Path, *, now: datetime | None = None) -> Path:
    """Write the attestation of an artefact, signed.

    Args:
        folder: Of the artefact.
        key: PEM of the private key.
        root: The repository.
        now: When; the present by default.
    """
    said = statement(folder, root, now=now or datetime.now(UTC))
    path = folder / PROVENANCE
    write_text(path, json.dumps(enveloped(said, key), indent=2) + "\n")
    return path


def attested(folder: Path, key: Path) -> dict[str, Any]:
    """The attestation of an artefact, after its signature and its subject have been verified.

    Args:
        folder: Of the artefact.
        key: PEM of the public key.

    Raises:
        PenstockError: There is none, it is not signed by that key, or it speaks of other files.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        raise PenstockError(
            f"{path}: there is no such file", hint=f"write it: penstock sign {folder} --key PRIVATE_KEY"
        )
    said = opened(read_json(path), key, path)
    there = {str(file.relative_to(folder)): _sha256(file) for file in signed_files(folder)}
    subject = {str(item["name"]): str(item["digest"]["sha256"]) for item in said["subject"]}
    if said.get("predicateType") != PREDICATE or subject != there:
        raise PenstockError(
            f"{path}: does not speak of the files that are there",
            hint="sign the artefact anew, after checking it",
        )
    return said


def _material(uri: str, path: Path) -> dict[str, Any]:
    return {"uri": uri, "digest": {"sha256": _sha256(path)}}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(root: Path, *arguments: str) -> list[str]:
    """Lines that git prints; none where there is no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
