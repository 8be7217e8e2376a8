"""Signatures of artefacts: OpenSSF model signing with a key of one's own.

``model.sig`` is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the SHA-256 of every file of the
artefact. It is written by the library model-signing and can be verified by it. Verifying here needs `cryptography` alone, as a
predictor should not have to carry a client of a transparency log in order to check one ECDSA signature.

Formats: https://docs.sigstore.dev/about/bundle/, https://github.com/secure-systems-lab/dsse and
https://github.com/in-toto/attestation/tree/main/spec/v1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError
from penstock.storage import write_bytes, write_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["PROVENANCE", "SIGNATURE", "enveloped", "make_key", "opened", "sign", "signed_files", "verify"]

SIGNATURE = "model.sig"
PROVENANCE = "provenance.intoto.json"
# What may lie in the folder unsigned, because nothing that serves an artefact reads it.
UNSIGNED = frozenset({SIGNATURE, PROVENANCE, ".gitignore", "pipeline.skops"})
MOST_BYTES = 4_194_304  # of a signature: a list of hashes
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def signed_files(folder: Path) -> list[Path]:
    """The files of an artefact that a signature covers, sorted by name.

    Raises:
        PenstockError: There is no such folder, it is empty, or something in it is not a plain file.
    """
    if not folder.is_dir():
        raise PenstockError(f"{folder}: there is no such folder", hint="name one such as models/churn")
    found = [path for path in sorted(folder.rglob("*")) if path.name not in UNSIGNED and not path.is_dir()]
    for path in found:
        if path.is_symlink() or not path.is_file():
            raise PenstockError(
                f"{path}: not a plain file, and what is not cannot be signed",
                hint="`dvc checkout` with cache.type copy",
            )
    if not found:
        raise PenstockError(f"{folder}: nothing to sign in it", hint="`dvc repro` or `dvc checkout` makes it")
    return found


def make_key(private: Path) -> Path:
    """Make a key pair on the curve P-256.

    Args:
        private: Where the private key goes, readable by its owner alone; the public one goes beside it, as ``.pub``.

    Returns:
        Where the public key is.

    Raises:
        PenstockError: There is a file already.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = private.with_suffix(".pub")
    for path in (private, public):
        if path.exists():
            raise PenstockError(f"{path}: exists", hint="a key is never replaced; choose another name")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    _keep_private(
        private, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    write_text(public, key.public_key().public_bytes(pem, form).decode())
    return public


def _keep_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its owner's alone from the first byte on, and never over another.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def sign(folder: Path, key: Path) -> Path:
    """Sign an artefact.

    Args:
        folder: Of the artefact.
        key: PEM of a private key on P-256, P-384 or P-521.

    Returns:
        The signature's file.

    Raises:
        PenstockError: There is nothing to sign, or the key cannot be used.
    """
    try:
        import model_signing
    except ModuleNotFoundError as error:
        raise PenstockError(
            "model-signing is not installed, and signs models", hint="install Penstock's extra `cloud`"
        ) from error

    signed_files(folder)  # refuses what is no artefact
    _private(key)  # says what is wrong with a key better than the library does
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=sorted(UNSIGNED), ignore_git_paths=False)
    config = (
        model_signing.signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hashing)
    )
    # Outside of the folder: a file that is being written there would be signed too.
    with tempfile.TemporaryDirectory() as other:
        config.sign(folder, Path(other) / SIGNATURE)
        write_bytes(folder / SIGNATURE, (Path(other) / SIGNATURE).read_bytes())
    return folder / SIGNATURE


def verify(folder: Path, key: Path) -> str:
    """Verify an artefact: the signature is the key's, and every file is the one that was signed.

    Args:
        folder: Of the artefact.
        key: PEM of the public key.

    Returns:
        SHA-256 of the signed list of hashes, in hexadecimal: the name of what was signed.

    Raises:
        PenstockError: It is not signed, not by that key, or a file is missing, changed, or was never signed.
    """
    path = folder / SIGNATURE
    statement = opened(_envelope(path), key, path)
    if statement.get("predicateType") != PREDICATE:
        raise _refused(path, f"its statement is a {statement.get('predicateType')!r}, not a {PREDICATE!r}")
    try:
        digests = {str(item["name"]): _sha256(item) for item in statement["predicate"]["resources"]}
        (subject,) = statement["subject"]
        whole = str(subject["digest"]["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, "its list of files cannot be read") from error
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
    if root != whole:
        raise _refused(path, "its list of files is not the one that it names")
    _compared(folder, digests)
    return whole


def _compared(folder: Path, digests: dict[str, str]) -> None:
    there = {str(file.relative_to(folder)): file for file in signed_files(folder)}
    for name in sorted(digests.keys() | there.keys()):
        if name not in there:
            raise _refused(folder / name, "it was signed, and is not there")
        if name not in digests:
            raise _refused(folder / name, "it is there, and was never signed")
        with there[name].open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digests[name]:
            raise _refused(folder / name, f"SHA-256 {found[:12]}…, signed was {digests[name][:12]}…")


def opened(envelope: dict[str, Any], key: Path, path: Path) -> dict[str, Any]:
    """The in-toto statement of a DSSE envelope, after its signature has been verified.

    Args:
        envelope: ``payload``, ``payloadType`` and ``signatures``.
        key: PEM of the public key.
        path: Where the envelope was read, for messages.

    Raises:
        PenstockError: The signature is not of that key, or what was signed is not a statement.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    public = _public(key)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = str(envelope["payloadType"])
        signatures = [base64.b64decode(item["sig"], validate=True) for item in envelope["signatures"]]
    except (KeyError, TypeError, binascii.Error) as error:
        raise _refused(path, "not a DSSE envelope") from error
    algorithm = getattr(hashes, CURVES[public.curve.name])()
    for signature in signatures:
        try:
            public.verify(signature, _encoded(kind, payload), ec.ECDSA(algorithm))
            break
        except InvalidSignature:
            continue
    else:
        raise _refused(path, f"no signature of the key {key}")
    try:
        statement = json.loads(payload)
    except ValueError as error:
        raise _refused(path, "what was signed is not JSON") from error
    if kind != PAYLOAD or not isinstance(statement, dict) or statement.get("_type") != STATEMENT:
        raise _refused(path, "what was signed is not an in-toto statement")
    return statement


def enveloped(statement: dict[str, Any], key: Path) -> dict[str, Any]:
    """A DSSE envelope around an in-toto statement.

    Args:
        statement: What is said.
        key: PEM of the private key.

    Raises:
        PenstockError: The key cannot be used.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    private = _private(key)
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    algorithm = getattr(hashes, CURVES[private.curve.name])()
    signature = private.sign(_encoded(PAYLOAD, payload), ec.ECDSA(algorithm))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
    }


def _encoded(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed names its type and its length."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def _envelope(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise PenstockError(
            f"{path.parent}: is not signed", hint=f"sign it: penstock sign {path.parent} --key PRIVATE_KEY"
        ) from error
    try:
        envelope = json.loads(content[:MOST_BYTES])["dsseEnvelope"]
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(path, "not a Sigstore bundle with a DSSE envelope") from error
    if not isinstance(envelope, dict):
        raise _refused(path, "not a Sigstore bundle with a DSSE envelope")
    return envelope


def _sha256(item: dict[str, Any]) -> str:
    digest = str(item["digest"])
    if item["algorithm"] != "sha256" or len(bytes.fromhex(digest)) != 32:
        raise ValueError(item)
    return digest


def _refused(path: Path, why: str) -> PenstockError:
    return PenstockError(
        f"{path}: signature refused: {why}",
        hint="do not serve it; fetch artefact and signature anew, or sign what you have checked",
    )


def _private(key: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        found = serialization.load_pem_private_key(_pem(key), None)
    except (ValueError, TypeError) as error:
        raise PenstockError(
            f"{key}: not a private key in PEM without a passphrase",
            hint="make one: penstock sign --make-key KEY",
        ) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey) or found.curve.name not in CURVES:
        raise PenstockError(
            f"{key}: not a key on P-256, P-384 or P-521", hint="make one: penstock sign --make-key KEY"
        )
    return found


def _public(key: Path) -> ec.EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        found = serialization.load_pem_public_key(_pem(key))
    except (ValueError, TypeError) as error:
        raise PenstockError(f"{key}: not a public key in PEM", hint="name the .pub of the pair") from error
    if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name not in CURVES:
        raise PenstockError(
            f"{key}: not a key on P-256, P-384 or P-521", hint="make one: penstock sign --make-key KEY"
        )
    return found


def _pem(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise PenstockError(
            f"{key}: cannot be read ({error.strerror})", hint="name the file of the key"
        ) from error
