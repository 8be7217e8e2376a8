"""An artefact as SageMaker takes it: verified first, and the same archive for the same files."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from penstock.artifact.signature import PROVENANCE, SIGNATURE, signed_files, verify
from penstock.errors import PenstockError
from penstock.storage import read_json

__all__ = ["Packed", "pack"]

MOST_BYTES = 2 * 1024**3  # held in memory; what is larger goes to a registry of models, not through here


@dataclass(frozen=True)
class Packed:
    """An archive of an artefact.

    Attributes:
        name: Of the model, from its manifest.
        version: First 12 hexadecimal digits of the model file's SHA-256.
        digest: SHA-256 of the archive, in hexadecimal.
        content: The archive, tar.gz.
    """

    name: str
    version: str
    digest: str
    content: bytes


def pack(folder: Path, key: Path | None) -> Packed:
    """Verify an artefact and pack it.

    Args:
        folder: Of the artefact.
        key: PEM of the public key that it must be signed by; None lets an unsigned one through.

    Raises:
        PenstockError: It is not signed by that key, a file is not the one its manifest names, or it is too large.
    """
    if key is not None:
        verify(folder, key)
    manifest = read_json(folder / "manifest.json")
    files = signed_files(folder)
    if sum(path.stat().st_size for path in files) > MOST_BYTES:
        raise PenstockError(
            f"{folder}: larger than {MOST_BYTES // 1024**3} GiB", hint="leave out what is not served"
        )
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    version = _named(folder, manifest, contents)
    for name in (SIGNATURE, PROVENANCE):
        if (folder / name).is_file():
            contents[name] = (folder / name).read_bytes()
    archive = _archive(contents)
    return Packed(
        str(manifest.get("name", folder.name)), version, hashlib.sha256(archive).hexdigest(), archive
    )


def _named(folder: Path, manifest: dict[str, object], contents: dict[str, bytes]) -> str:
    """The version, after the model file has been found to be the manifest's."""
    if "model.onnx" not in contents:
        raise PenstockError(
            f"{folder / 'model.onnx'}: there is no such file", hint="`dvc repro` or `dvc pull` makes it"
        )
    found = hashlib.sha256(contents["model.onnx"]).hexdigest()
    said = manifest.get("sha256")
    if said is not None and said != found:
        raise PenstockError(
            f"{folder / 'model.onnx'}: does not match its manifest (SHA-256 {found[:12]}…, expected {str(said)[:12]}…)",
            hint="fetch both anew: `dvc checkout models`, or `dvc repro`",
        )
    return found[:12]


def _archive(contents: dict[str, bytes]) -> bytes:
    """A tar.gz without times, owners or an order of its own."""
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in sorted(contents.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, 0
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
