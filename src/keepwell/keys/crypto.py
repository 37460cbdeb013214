"""The few cryptographic moves of the format (docs/format.md, section 3), each with one parameter set."""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keepwell.core.errors import Damaged

KEM_NAME = "MLKEM768-X25519"
ENVELOPE = b"KWE1"
_ZERO_NONCE = bytes(12)
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def derive(secret: bytes, salt: bytes, name: str, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869) with info `keepwell/1/<name>`."""
    return HKDF(hashes.SHA256(), length, salt, b"keepwell/1/" + name.encode()).derive(secret)


def stretch(passphrase: str, salt: bytes, *, memory_kib: int, passes: int, lanes: int) -> bytes:
    """Argon2id (RFC 9106) to 32 bytes."""
    kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(passphrase.encode())


def seal_envelope(key: bytes, vault: bytes, name: str, plain: bytes) -> bytes:
    salt = os.urandom(32)
    box = AESGCM(derive(key, salt, "envelope"))
    return ENVELOPE + salt + box.encrypt(_ZERO_NONCE, plain, vault + name.encode())


def open_envelope(key: bytes, vault: bytes, name: str, sealed: bytes | memoryview) -> bytes:
    """Raises Damaged where the bytes are not what a key holder put under this name."""
    sealed = memoryview(sealed)
    if len(sealed) < 52 or sealed[:4] != ENVELOPE:
        raise Damaged(f"{name} is cut short or is not a keepwell object")
    box = AESGCM(derive(key, bytes(sealed[4:36]), "envelope"))
    try:
        return box.decrypt(_ZERO_NONCE, sealed[36:], vault + name.encode())
    except InvalidTag:
        raise Damaged(f"{name} was altered: its authentication tag does not match") from None


def mac(key: bytes, name: str, content: bytes) -> str:
    """HMAC-SHA256 (RFC 2104), hex, of `name ‖ 0x00 ‖ content`."""
    return hmac.new(key, name.encode() + b"\0" + content, hashlib.sha256).hexdigest()


def same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())


def new_private() -> bytes:
    """64-byte ML-KEM-768 seed and 32-byte X25519 key."""
    return os.urandom(96)


def public_of(private: bytes) -> bytes:
    key = _private(private)
    public: bytes = key[0].public_key().public_bytes_raw() + key[1].public_key().public_bytes_raw()
    return public


def seal(public: bytes, info: bytes, plain: bytes) -> bytes:
    """HPKE (RFC 9180) base mode, single shot, to the hybrid public key (1216 bytes)."""
    key = MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:1184]),
        x25519.X25519PublicKey.from_public_bytes(public[1184:]),
    )
    return _SUITE.encrypt(plain, key, info)


def unseal(private: bytes, info: bytes, sealed: bytes | memoryview, *, what: str) -> bytes:
    """Raises Damaged."""
    try:
        return _SUITE.decrypt(bytes(sealed), MLKEM768X25519PrivateKey(*_private(private)), info)
    except (InvalidTag, ValueError):
        raise Damaged(f"the sealed key of {what} was altered: it does not open") from None


def _private(private: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(private[:64]),
        x25519.X25519PrivateKey.from_private_bytes(private[64:]),
    )
