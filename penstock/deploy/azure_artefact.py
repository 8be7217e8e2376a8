"""An artefact in Azure's blob storage: checked before it leaves, and never replaced there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.artifact.manifest import MANIFEST, MODEL
from penstock.artifact.signature import PROVENANCE, SIGNATURE, signed_files, verify
from penstock.errors import PenstockError
from penstock.storage import read_json

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

__all__ = ["Artefact", "container", "local", "missing", "uploaded"]

TRIES = 5


@dataclass(frozen=True)
class Artefact:
    """Files of an artefact, by their hashes.

    Attributes:
        folder: Where they are.
        sha256: Of the ONNX file, as the manifest says and as it is.
        files: SHA-256 of each file, by name.
    """

    folder: Path
    sha256: str
    files: dict[str, str]

    @property
    def version(self) -> str:
        """As answers and the request log name it."""
        return self.sha256[:12]

    @property
    def prefix(self) -> str:
        """Its folder in the container: of what is in it, so that nothing is ever replaced by something else."""
        together = hashlib.sha256("".join(f"{n} {h}\n" for n, h in sorted(self.files.items())).encode())
        return f"{self.folder.name}/{self.version}-{together.hexdigest()[:12]}"


def local(folder: Path, key: Path | None = None) -> Artefact:
    """The artefact in a folder, whose ONNX file is the one that its manifest speaks of.

    Args:
        folder: Of the artefact.
        key: PEM of the public key by which it must be signed; None asks for no signature.

    Raises:
        PenstockError: Something is missing, the file is another, or it is not signed by that key.
    """
    for name in (MANIFEST, MODEL):
        if not (folder / name).is_file():
            raise PenstockError(
                f"{folder}: there is no {name} in it",
                hint="name a folder such as models/churn; `dvc repro` makes it",
            )
    if key is not None:
        verify(folder, key)
    beside = [folder / name for name in (SIGNATURE, PROVENANCE) if (folder / name).is_file()]
    files = {path.relative_to(folder).as_posix(): _digest(path) for path in (*signed_files(folder), *beside)}
    manifest = read_json(folder / MANIFEST)
    said = manifest.get("sha256") if isinstance(manifest, dict) else None
    if said != files[MODEL]:
        raise PenstockError(
            f"{folder / MODEL}: its SHA-256 is {files[MODEL][:12]}…, not {str(said)[:12]}… as {MANIFEST} says",
            hint="it is not deployed; make it anew: `dvc repro`, or fetch it again",
        )
    return Artefact(folder, files[MODEL], files)


def container(url: str, name: str, credential: Any) -> ContainerClient:
    """A container of a storage account.

    Args:
        url: Of the account's blobs.
        name: The container's.
        credential: Of azure-identity.
    """
    from azure.storage.blob import ContainerClient

    return ContainerClient(
        url, name, credential=credential, retry_total=TRIES, connection_timeout=20, read_timeout=60
    )


def missing(blobs: ContainerClient, artefact: Artefact) -> list[str]:
    """Names of files that are not there yet.

    Raises:
        PenstockError: One is there under the same name and is another, or nobody lets us look.
    """
    with _in_words(blobs):
        there = {
            blob.name.removeprefix(artefact.prefix + "/"): (blob.metadata or {}).get("sha256")
            for blob in blobs.list_blobs(name_starts_with=artefact.prefix + "/", include=["metadata"])
        }
    for name, digest in artefact.files.items():
        if name in there and there[name] != digest:
            raise PenstockError(
                f"{blobs.container_name}/{artefact.prefix}/{name}: is there, and is not what {artefact.folder} holds",
                hint="somebody has put it there by hand; remove it, and run it again",
            )
    return [name for name in artefact.files if name not in there]


def uploaded(blobs: ContainerClient, artefact: Artefact) -> list[str]:
    """Put what is missing there, the manifest last: whoever finds it finds all the rest.

    Returns:
        Names of the files that were put.
    """
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import ContentSettings

    names = sorted(missing(blobs, artefact), key=lambda name: name == MANIFEST)
    for name in names:
        path = artefact.folder / name
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != artefact.files[name]:
            raise PenstockError(f"{path}: has changed while it was deployed", hint="run it again")
        kind = "application/json" if name.endswith(".json") else "application/octet-stream"
        with _in_words(blobs):
            try:
                blobs.upload_blob(
                    f"{artefact.prefix}/{name}",
                    content,
                    overwrite=False,  # If-None-Match: *
                    metadata={"sha256": artefact.files[name]},
                    content_settings=ContentSettings(
                        content_type=kind,
                        content_md5=bytearray(hashlib.md5(content, usedforsecurity=False).digest()),
                    ),
                    validate_content=True,
                )
            except ResourceExistsError:
                missing(blobs, artefact)  # another was quicker; the same, or it says so
    return names


@contextmanager
def _in_words(blobs: ContainerClient) -> Iterator[None]:
    """Turns the storage client's errors into words."""
    from azure.core.exceptions import (
        ClientAuthenticationError,
        HttpResponseError,
        ResourceExistsError,
        ServiceRequestError,
        ServiceResponseError,
    )

    where = f"{blobs.account_name}/{blobs.container_name}"
    try:
        yield
    except ResourceExistsError:
        raise  # whoever asked expects it
    except HttpResponseError as error:
        code = getattr(error, "error_code", None) or error.status_code
        if error.status_code in (401, 403):
            raise PenstockError(
                f"{where}: Azure does not let you write there ({code})",
                hint="name yourself in the file: deployer: OBJECT ID, and apply; a new role takes some minutes to be known",
            ) from error
        if isinstance(error, ClientAuthenticationError):
            first = str(error).splitlines()[0]
            raise PenstockError(f"{where}: {first}", hint="log in: `az login`") from error
        raise PenstockError(
            f"{where}: {code}: {str(error.message).splitlines()[0]}",
            hint="run `penstock deploy azure apply` again",
        ) from error
    except (ServiceRequestError, ServiceResponseError) as error:
        raise PenstockError(
            f"{where} does not answer: {str(error).splitlines()[0][:200]}",
            hint="is the network reachable, and does the account exist yet? Run it again",
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
