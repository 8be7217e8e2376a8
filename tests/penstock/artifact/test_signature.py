"""What is signed is what is served: every change of a signed artefact is refused, by us and by the library whose format it is."""

import base64
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import model_signing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artifact.provenance import attest, attested
from penstock.artifact.signature import PROVENANCE, SIGNATURE, make_key, sign, signed_files, verify
from penstock.errors import PenstockError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    private = tmp_path_factory.mktemp("keys") / "release.pem"
    return private, make_key(private)


def written(folder: Path) -> Path:
    """An artefact as far as a signature is concerned: files, one of them below."""
    (folder / "labels").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 8)
    (folder / "manifest.json").write_text(
        json.dumps({"name": "churn", "data_sha256": "ab" * 32, "versions": {"numpy": "2"}})
    )
    (folder / "labels" / "names.json").write_text("[]")
    (folder / "pipeline.skops").write_bytes(b"for training alone")
    return folder


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    folder = written(tmp_path_factory.mktemp("artefact") / "churn")
    sign(folder, keys[0])
    return folder


def test_what_was_signed_is_verified_by_us_and_by_the_library(signed: Path, keys: tuple[Path, Path]) -> None:
    digest = verify(signed, keys[1])
    assert len(digest) == 64
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    config.verify(signed, signed / SIGNATURE)
    # And the library's own defaults: of what it signs with nothing left out, we say the same.
    payload = json.loads(
        base64.b64decode(json.loads((signed / SIGNATURE).read_text())["dsseEnvelope"]["payload"])
    )
    assert payload["subject"][0]["digest"]["sha256"] == digest


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_any_file_is_refused(
    signed: Path, keys: tuple[Path, Path], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(signed_files(signed)))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    flipped = bytearray(before)
    flipped[place] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(flipped)
        with pytest.raises(PenstockError, match=f"{path.name}: signature refused: SHA-256"):
            verify(signed, keys[1])
    finally:
        path.write_bytes(before)
    verify(signed, keys[1])


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_changed_signature_is_refused_or_says_the_same(
    signed: Path, keys: tuple[Path, Path], place: int, flip: int
) -> None:
    path = signed / SIGNATURE
    before = path.read_bytes()
    envelope = json.loads(before)["dsseEnvelope"]
    flipped = bytearray(before)
    flipped[place % len(before)] ^= flip
    try:
        path.write_bytes(flipped)
        try:
            verify(signed, keys[1])
        except PenstockError:
            return
        # Not every byte of the bundle is signed (spaces, the hint of a key): what is accepted must be word for word the same.
        after = json.loads(flipped)["dsseEnvelope"]
        assert base64.b64decode(after["payload"]) == base64.b64decode(envelope["payload"])
        assert after["payloadType"] == envelope["payloadType"]
    finally:
        path.write_bytes(before)


def change(name: str) -> Any:
    def added(folder: Path) -> None:
        (folder / "other.onnx").write_bytes(b"never signed")

    def removed(folder: Path) -> None:
        (folder / "labels" / "names.json").unlink()

    def unsigned(folder: Path) -> None:
        (folder / SIGNATURE).unlink()

    def linked(folder: Path) -> None:
        model = folder / "model.onnx"
        model.rename(folder.parent / "elsewhere.onnx")
        model.symlink_to(folder.parent / "elsewhere.onnx")

    def swapped(folder: Path) -> None:
        """The list of files of another artefact, under its own valid signature, in another envelope's type."""
        bundle = json.loads((folder / SIGNATURE).read_text())
        bundle["dsseEnvelope"]["payloadType"] = "text/plain"
        (folder / SIGNATURE).write_text(json.dumps(bundle))

    def emptied(folder: Path) -> None:
        bundle = json.loads((folder / SIGNATURE).read_text())
        bundle["dsseEnvelope"]["signatures"] = []
        (folder / SIGNATURE).write_text(json.dumps(bundle))

    return locals()[name]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("added", "other.onnx: signature refused: it is there, and was never signed"),
        ("removed", "names.json: signature refused: it was signed, and is not there"),
        ("unsigned", "is not signed\n  → sign it: penstock sign"),
        ("linked", "model.onnx: not a plain file"),
        ("swapped", "no signature of the key"),
        ("emptied", "no signature of the key"),
    ],
)
def test_what_else_is_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, what: str, says: str
) -> None:
    folder = tmp_path / "churn"
    shutil.copytree(signed, folder)
    verify(folder, keys[1])
    change(what)(folder)
    with pytest.raises(PenstockError) as refusal:
        verify(folder, keys[1])
    assert says in str(refusal.value)


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other.pem")
    with pytest.raises(PenstockError, match="no signature of the key"):
        verify(signed, other)


def test_an_attestation_is_no_signature(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Both are envelopes of the same key: one must not pass for the other."""
    folder = tmp_path / "churn"
    shutil.copytree(signed, folder)
    envelope = json.loads(attest(folder, keys[0], tmp_path).read_text())
    (folder / SIGNATURE).write_text(json.dumps({"dsseEnvelope": envelope}))
    with pytest.raises(PenstockError, match=r"slsa\.dev"):
        verify(folder, keys[1])


def test_an_attestation_names_commit_lock_and_files(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "churn"
    shutil.copytree(signed, folder)
    root = Path(__file__).parents[3]
    attest(folder, keys[0], root)
    said = attested(folder, keys[1])
    assert {item["name"] for item in said["subject"]} == {"labels/names.json", "manifest.json", "model.onnx"}
    materials = {
        item["uri"]: item["digest"] for item in said["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert len(materials["git+local"]["gitCommit"]) == 40
    assert len(materials["file:dvc.lock"]["sha256"]) == 64
    assert materials["manifest:data_sha256"] == {"sha256": "ab" * 32}
    # Not a word of where or by whom it was built.
    assert (
        str(root) not in base64.b64decode(json.loads((folder / PROVENANCE).read_text())["payload"]).decode()
    )
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(PenstockError, match="does not speak of the files"):
        attested(folder, keys[1])


def test_a_private_key_is_its_owners_alone_and_never_replaced(keys: tuple[Path, Path]) -> None:
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    with pytest.raises(PenstockError, match="exists"):
        make_key(keys[0])


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_told(signed: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k.pub"
    path.write_bytes(content)
    with pytest.raises(PenstockError, match="not a public key in PEM"):
        verify(signed, path)
    with pytest.raises(PenstockError, match="not a private key in PEM"):
        sign(signed, path)
