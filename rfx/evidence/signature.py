"""A signature over evidence.json: who made it, and that not a byte of it has changed since.

Ed25519, by the package `cryptography`. The signature lies beside the document as the 64 bytes that
OpenSSL writes and checks too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core.bounded import read_bytes
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.files import atomic_write_bytes
from rfx.core.recognised import KEY, told_apart
from rfx.evidence.files import SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

INSTALL = 'pip install "rfx-exporter[sign]"'
MAKE = "openssl genpkey -algorithm ed25519 -out KEY"
_LENGTH = 64  # bytes of a signature
_MOST_MB = 1  # of a key or a signature


def private_key(path: str | Path) -> Ed25519PrivateKey:
    """The key to sign with: PEM of OpenSSL, or the file of `ssh-keygen -t ed25519 -N ""`.

    Raises:
        UsageError: no such file, no private Ed25519 key, or one with a passphrase.
        EnvironmentMissingError: `cryptography` is not installed.
    """
    serialization, kinds = _library()
    with told_apart(path, KEY):
        data = read_bytes(path, what="signing key", most_mb=_MOST_MB, allowed=_allowed("private"))
    ssh = b"OPENSSH PRIVATE KEY" in data
    read = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    with told_apart(path, KEY):
        return _key(path, lambda: read(data, password=None), kinds.Ed25519PrivateKey, "private")


def public_key(path: str | Path) -> Ed25519PublicKey:
    """The key to check with: PEM of `openssl pkey -pubout`, or the .pub file of ssh-keygen.

    Raises:
        UsageError: no such file, or no public Ed25519 key.
        EnvironmentMissingError: `cryptography` is not installed.
    """
    serialization, kinds = _library()
    with told_apart(path, KEY):
        data = read_bytes(path, what="public key", most_mb=_MOST_MB, allowed=_allowed("public"))
    ssh = data.lstrip().startswith(b"ssh-")
    read = serialization.load_ssh_public_key if ssh else serialization.load_pem_public_key
    with told_apart(path, KEY):
        return _key(path, lambda: read(data), kinds.Ed25519PublicKey, "public")


def sign(document: Path, key: Ed25519PrivateKey) -> Path:
    """Write the signature of a document beside it, and return its path."""
    file = document.parent / SIGNATURE
    atomic_write_bytes(file, key.sign(document.read_bytes()))
    return file


def require_signature(data: bytes, document: Path, key: Ed25519PublicKey) -> None:
    """Raises UsageError unless `data` was signed with the private part of `key`; the signature lies
    beside `document`."""
    from cryptography.exceptions import InvalidSignature

    file = document.parent / SIGNATURE
    if not file.is_file():
        raise UsageError(
            "The evidence is not signed.",
            got=f"no {file}",
            allowed=f"{SIGNATURE} beside it, as `rfx prune-export --sign KEY` writes it",
            next_step="do not trust it, or leave --verify-key out",
        )
    signature = read_bytes(file, what="signature", most_mb=_MOST_MB)
    try:
        if len(signature) != _LENGTH:
            raise InvalidSignature
        key.verify(signature, data)
    except InvalidSignature:
        raise UsageError(
            "The signature is not of this evidence and this key.",
            got=str(file),
            allowed="evidence.json as it was signed, and the public part of the key that signed it",
            next_step="do not trust it: it was changed, or another key has signed it",
        ) from None


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise EnvironmentMissingError(
            "Signatures need a package that is not installed.",
            got="no cryptography",
            next_step=INSTALL,
        ) from None
    return serialization, ed25519


def _key(path: str | Path, read: Any, kind: type, word: str) -> Any:
    """A key of the right kind; no library's words on a wrong one."""
    from cryptography.exceptions import UnsupportedAlgorithm

    why = "no key that can be read"
    try:
        key = read()
    except TypeError:
        why = "a key with a passphrase, which rfx does not ask for"
    except (ValueError, UnsupportedAlgorithm):
        pass
    else:
        if isinstance(key, kind):
            return key
        why = "a key of another algorithm"
    step = f"make one: {MAKE}; openssl pkey -in KEY -pubout -out KEY.pub"
    if word == "public" and _is_private(path):
        why, step = (
            "a private key",
            f"give its public key: openssl pkey -in {path} -pubout -out FILE",
        )
    raise UsageError(
        f"This is no {word} key for signatures.",
        got=f"{path}: {why}",
        allowed=_allowed(word),
        next_step=step,
    )


def _is_private(path: str | Path) -> bool:
    try:
        with Path(path).open("rb") as stream:
            return b"PRIVATE KEY" in stream.read(200)
    except OSError:
        return False


def _allowed(word: str) -> str:
    return f"the file of a {word} Ed25519 key without a passphrase, made by openssl or ssh-keygen"
