"""The key that records are signed with (Ed25519, RFC 8032), and what a signature says."""

import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.digests import canonical_json
from infra.errors import SluiceError

VARIABLE = "SLUICE_SIGNING_KEY"
RAW, RAW_FORM = serialization.Encoding.Raw, serialization.PublicFormat.Raw


def key_path() -> Path:
    """Where the key lies: $SLUICE_SIGNING_KEY, else the user's folder of configuration."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "sluice" / "signing-key.pem"


def signing_key() -> Ed25519PrivateKey:
    """The key; made on first use, readable by its owner alone, unless $SLUICE_SIGNING_KEY names it.

    SluiceError where that is no Ed25519 key in PEM without a password.
    """
    path = key_path()
    try:
        if not path.exists() and not os.environ.get(VARIABLE):
            _make(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
        why = "it is a key of another kind"
    except (OSError, ValueError, TypeError) as error:
        why = str(error)
    raise SluiceError(
        f"{path} is no signing key: {why}",
        f"`openssl genpkey -algorithm ed25519 -out {path}` makes one; ${VARIABLE} names it",
    )


def _make(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f"{path.name}-{os.getpid()}")
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    try:
        os.link(staged, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        staged.unlink()


def public_hex(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(RAW, RAW_FORM).hex()


def signed(record: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """The record with its key's public half and a signature over its canonical JSON."""
    record = {**record, "key": public_hex(key)}
    signature = key.sign(canonical_json(record)).hex()
    return canonical_json({"record": record, "signature": signature})


def is_genuine(told: Any) -> bool:
    """Whether what `signed` made is still as it was."""
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(told["record"]["key"]))
        public.verify(bytes.fromhex(told["signature"]), canonical_json(told["record"]))
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return False
    return True
