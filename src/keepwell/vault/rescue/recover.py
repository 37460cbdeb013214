"""recover.py: get data back out of a keepwell vault, without keepwell.

Needs Python 3.11 or newer and, to decrypt, two packages:   python3 -m pip install cryptography backports.zstd
Works on a folder with the whole vault in it (a downloaded copy of the bucket), and never writes there.

    python3 recover.py VAULT_FOLDER list
    python3 recover.py VAULT_FOLDER show BACKUP --key-file KEY
    python3 recover.py VAULT_FOLDER restore BACKUP --source NAME --to NEW_FOLDER --key-file KEY

BACKUP is an id as `list` shows it, or production@latest, or production@2026-11-22 (the newest of that day, UTC).
Exit status: 0 all is well, 1 something is damaged or failed, 2 wrong usage, 7 the key does not fit or cannot read.
The format is described in docs/format.md of keepwell; section numbers below are its.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import contextlib
import errno
import getpass
import hashlib
import hmac
import importlib
import itertools
import json
import os
import re
import stat
import struct
import sys
import urllib.parse
import warnings
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MISSING = ""
try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as problem:
    MISSING = f"the package cryptography, version 50 or newer, is needed ({problem})"


def find_module(*names: str) -> Any:
    for name in names:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


zstd = find_module("compression.zstd", "backports.zstd", "pyzstd", "zstandard")
blake3 = find_module("blake3")
if zstd is None:
    MISSING = MISSING or "a package for zstd is needed"

FOLDER = re.compile(
    r"([a-z0-9][a-z0-9_-]{0,39})/(daily|weekly|monthly|manual)/(\d{4})-(\d\d)-(\d\d)/(\d{6}Z)-([0-9a-f]{4})"
)
FRAME = struct.Struct("<IIBBH16sI")


class Stop(Exception):
    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Damage(Stop):
    """Bytes in the vault are missing, altered or cut short."""


troubles: list[str] = []


def trouble(text: object) -> None:
    """Something is not as it must be, and the work goes on: it is told at once, and decides the exit status."""
    if str(text) not in troubles:
        troubles.append(str(text))
        note(f"DAMAGED: {text}")


def note(text: str) -> None:
    print(show(text), file=sys.stderr)


def show(text: object) -> str:
    """Fit for a terminal, whatever is in it."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))


# Keys (section 3)


def unzstd(data: bytes, size: int | None = None) -> bytes:
    """One frame of zstd; with `size` never more than that many bytes. Raises ValueError."""
    try:
        if zstd.__name__ == "zstandard":
            with zstd.ZstdDecompressor().stream_reader(data) as reader:
                plain: bytes = reader.readall() if size is None else reader.read(size + 1)
        elif size is None:
            plain = zstd.decompress(data)
        else:
            plain = zstd.ZstdDecompressor().decompress(data, size + 1)
    except (zstd.ZstdError, EOFError) as error:
        raise ValueError(f"zstd: {error}") from None
    if size is not None and len(plain) != size:
        raise ValueError("zstd: another length than announced")
    return plain


def unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def derive(secret: bytes, salt: bytes, name: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, b"keepwell/1/" + name.encode()).derive(secret)


class Vault:
    """The folder. `unlock` makes `writer` (enough to verify) and, with a reader key, `private` (needed to decrypt)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "vault.json").is_file():
            raise Stop(f"{root} is not a vault: it has no vault.json (name the folder that vault.json is in)", 2)
        self.raw = (root / "vault.json").read_bytes()
        try:
            document = json.loads(self.raw)
            self.id = bytes.fromhex(document["vault"])
            version, features = document["format"], document["features"]["read"]
        except (ValueError, KeyError, TypeError) as error:
            raise Damage(f"vault.json was altered ({error}): put the original back") from None
        if version != 1 or features:
            raise Stop(f"this vault (format {version}, features {features}) needs a newer recover.py or keepwell")
        self.writer = self.private = b""
        self._places: dict[bytes, list[tuple[str, list[array[int]]]]] | None = None

    def get(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise Damage(f"{name} is missing") from None

    def unlock(self, key_file: Path | None, passphrase_file: Path | None) -> None:
        if MISSING:
            raise Stop(f"{MISSING}: python3 -m pip install cryptography backports.zstd")
        secret, only = self._secret(key_file, passphrase_file)
        kind, problem = ("keyfile" if only else "passphrase"), None
        names = [f"{only}.json"] if only else sorted(p.name for p in (self.root / "keys").glob("*.json"))
        for name in names:
            try:
                slot = json.loads(self.get(f"keys/{name}"))
                if slot["kind"] != kind:
                    continue
                box, bound = AESGCM(self._wrapping(secret, kind, slot["kdf"])), f"{slot['slot']}".encode()
                bound = b"keepwell/1/slot" + self.id + bound
                payload = json.loads(box.decrypt(unbase64(slot["nonce"]), unbase64(slot["sealed"]), bound))
                self.writer, self.private = unbase64(payload["writer"]), unbase64(payload.get("private", ""))
            except InvalidTag:
                continue
            except (Damage, ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"; keys/{name} is damaged ({error})"
                continue
            if payload["vault_json"] != hashlib.sha256(self.raw).hexdigest():
                trouble("vault.json is not the one that this key was made for. Do not make new backups into this vault")
            return
        what = "key file" if only else "passphrase"
        raise Stop(f"the {what} opens no key slot of this vault{problem or ''}", 7)

    def _secret(self, key_file: Path | None, passphrase_file: Path | None) -> tuple[bytes, str]:
        """The secret, and of a key file its slot."""
        try:
            if key_file:
                text = key_file.read_text(encoding="ascii").splitlines()
                line = next((part for part in text if part.strip() and not part.startswith("#")), "").strip()
                parts = line.split(":")
                if len(parts) != 4 or parts[0] != "keepwell-key-1" or not re.fullmatch("[0-9a-f]{1,64}", parts[2]):
                    raise Stop(f"{key_file} is not a keepwell key file (one line keepwell-key-1:...)", 7)
                if parts[1] != self.id.hex():
                    raise Stop(f"{key_file} is the key of another vault ({parts[1]}; this one is {self.id.hex()})", 7)
                return unbase64(parts[3]), parts[2]
            if passphrase_file:
                return passphrase_file.read_text(encoding="utf-8").rstrip("\r\n").encode(), ""
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)
                return getpass.getpass("Passphrase of the vault: ").encode(), ""
        except (OSError, ValueError) as error:
            raise Stop(f"the key cannot be read: {error}", 7) from None
        except (EOFError, getpass.GetPassWarning):
            raise Stop("a key is needed: --key-file FILE or --passphrase-file FILE", 7) from None

    def _wrapping(self, secret: bytes, kind: str, kdf: dict[str, Any]) -> bytes:
        salt = unbase64(kdf["salt"])
        if kind == "keyfile":
            return derive(secret, salt, "keyfile")
        memory, passes, lanes = int(kdf["memory_kib"]), int(kdf["passes"]), int(kdf["lanes"])
        if not (8 * lanes <= memory <= 4 << 20 and 1 <= passes <= 64 and 1 <= lanes <= 64):
            raise ValueError("parameters of Argon2id are out of range")
        return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(secret)

    def envelope(self, name: str, sealed: bytes) -> bytes:
        if sealed[:4] != b"KWE1":
            raise Damage(f"{name} is cut short or not an object of keepwell")
        try:
            box = AESGCM(derive(derive(self.writer, self.id, "index"), sealed[4:36], "envelope"))
            return box.decrypt(bytes(12), sealed[36:], self.id + name.encode())
        except (InvalidTag, ValueError):
            raise Damage(f"{name} was altered") from None

    def unseal(self, purpose: str, bound: bytes, sealed: bytes, what: str) -> Any:
        """The AES-256-GCM box whose key is sealed to the vault's public key."""
        pair = (
            mlkem.MLKEM768PrivateKey.from_seed_bytes(self.private[:64]),
            x25519.X25519PrivateKey.from_private_bytes(self.private[64:]),
        )
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        info = b"keepwell/1/" + purpose.encode() + self.id + bound
        try:
            return AESGCM(suite.decrypt(sealed, MLKEM768X25519PrivateKey(*pair), info))
        except (InvalidTag, ValueError):
            raise Damage(f"the sealed key of {what} was altered") from None

    def document(self, name: str) -> dict[str, Any]:
        """A JSON object that anyone can read; with a key it is authenticated, too."""
        raw = self.get(name)
        try:
            found = json.loads(raw)
            if json.dumps(found, indent=2, sort_keys=True).encode() + b"\n" != raw:
                raise ValueError("not as keepwell writes it")
            claimed = str(found.pop("mac"))
        except (ValueError, KeyError, AttributeError) as error:
            raise Damage(f"{name} was altered or cut short ({error})") from None
        if self.writer:
            text = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
            key = derive(self.writer, self.id, "mac")
            right = hmac.new(key, name.encode() + b"\0" + text, hashlib.sha256).hexdigest()
            if not hmac.compare_digest(claimed.encode(), right.encode()):
                raise Damage(f"{name} was altered: its authentication code does not match")
        return dict(found)

    # Where frames are now, for those whose pack is gone: a prune may have moved them (sections 4 to 6)

    def places(self, birth: bytes, number: int) -> Iterator[tuple[str, int, int]]:
        if self._places is None:
            self._places = self._survey()
        for pack, (numbers, offsets, lengths, _) in self._places.get(birth, ()):
            for at, found in enumerate(numbers):
                if found == number:
                    yield pack, offsets[at], lengths[at]

    def _survey(self) -> dict[bytes, list[tuple[str, list[array[int]]]]]:
        found: dict[bytes, list[tuple[str, list[array[int]]]]] = {}
        there = {path.name: path for path in (self.root / "packs").glob("*/*")}
        known: set[str] = set()

        def add(data: bytes, at: int, pack: str = "") -> int:
            (size,) = struct.unpack_from("<I", data, at)
            head, at = json.loads(data[at + 4 : at + 4 + size]), at + 4 + size
            pack, frames, first = pack or head["pack"], head["frames"], 0
            table = [column(data, "I", frames, at + 4 * frames * i) for i in range(4)]
            for section in head["sections"] if pack in there and pack not in known else ():
                last = first + section["frames"]
                part = (pack, [values[first:last] for values in table])
                found.setdefault(bytes.fromhex(section["birth"]), []).append(part)
                first = last
            known.add(pack)
            return at + 16 * int(frames) + 16 * int(head["pieces"])

        for path in sorted((self.root / "index").glob("*")):
            try:
                data, at = unzstd(self.envelope(f"index/{path.name}", path.read_bytes())), 4
                for _ in range(struct.unpack_from("<I", data)[0]):
                    at = add(data, at)
            except (Damage, ValueError, KeyError, TypeError, struct.error) as error:
                note(f"index/{path.name} is damaged ({error}); what packs say of themselves is used instead")
        for name in sorted(set(there) - known):
            try:
                raw = there[name].read_bytes()
                (length,) = struct.unpack_from("<I", raw, len(raw) - 8)
                birth = sections(raw, name)[0][0].hex()
                add(unzstd(self.envelope(f"trailer/{birth}", raw[len(raw) - 8 - length : -8])), 0, name)
            except (Damage, ValueError, KeyError, TypeError, struct.error) as error:
                note(f"{pack_name(name)} is damaged ({error}) and not looked into")
        return found


def pack_name(sha256: str) -> str:
    return f"packs/{sha256[:2]}/{sha256}"


def column(data: bytes, code: str, count: int, at: int) -> array[int]:
    values = array(code)
    part = data[at : at + count * values.itemsize]
    values.frombytes(part)
    if len(values) != count:
        raise ValueError("cut short")
    if sys.byteorder == "big":
        values.byteswap()
    return values


def sections(head: bytes, what: str) -> list[tuple[bytes, bytes]]:
    """Birth ids and sealed keys from the beginning of a pack."""
    try:
        magic, version, flags, count = struct.unpack_from("<4sBBH", head)
        if (magic, version, flags) != (b"KWPK", 1, 0) or not count:
            raise ValueError("no pack of version 1")
        found, at = [], 8
        for _ in range(count):
            (length,) = struct.unpack_from("<I", head, at + 16)
            found.append((head[at : at + 16], head[at + 20 : at + 20 + length]))
            at += 20 + length
        return found
    except (struct.error, ValueError) as error:
        raise Damage(f"{what} was altered or cut short ({error})") from None


# Backups (sections 6 and 7)


@dataclass
class Backup:
    folder: str
    id: str
    day: str
    tier: str
    about: dict[str, Any]
    """metadata.json; empty where it is damaged."""
    state: str


@dataclass
class Stream:
    source: str
    name: str
    size: int
    digest: str
    cut: str
    first: int
    """Of its extents, in the columns."""
    ends: list[int]
    """Where in the stream each of them ends."""


def find_backups(vault: Vault) -> list[Backup]:
    """All folders of backups, oldest first."""
    marks: set[str] = set()
    for path in (vault.root / "trash").glob("*.json"):
        try:
            marks.update(vault.document(f"trash/{path.name}")["backups"])
        except (Damage, KeyError) as error:
            trouble(error)
    found = []
    for path in vault.root.glob("*/*/*/*"):
        folder = path.relative_to(vault.root).as_posix()
        match = FOLDER.fullmatch(folder)
        if not match or not path.is_dir():
            continue
        environment, tier, year, month, day, time, suffix = match.groups()
        ident = f"{environment}/{year}{month}{day}T{time}-{suffix}"
        backup = Backup(folder + "/", ident, f"{year}-{month}-{day}", tier, {}, "never finished")
        if (path / "metadata.json").exists():
            try:
                about = vault.document(backup.folder + "metadata.json")
                if about["backup"] != ident:
                    raise Damage(f"{backup.folder}metadata.json belongs to another backup")
                backup.about, backup.state = about, str(about["status"])
            except (Damage, KeyError) as error:
                trouble(error)
                backup.state = "DAMAGED"
        if backup.state in {"complete", "incomplete"} and not (path / "manifest").exists():
            trouble(f"{backup.folder}manifest is missing")
            backup.state = "DAMAGED"
        if backup.folder in marks:
            backup.state += ", to be deleted"
        found.append(backup)
    return sorted(found, key=lambda b: (b.id.partition("/")[0], b.id))


def last_proof(vault: Vault, backup: Backup) -> str:
    proofs = []
    for path in (vault.root / backup.folder).glob("proof-*.json"):
        try:
            proof = vault.document(backup.folder + path.name)
            said = "passed" if proof["passed"] and proof["checksum"] == backup.about.get("checksum") else "FAILED"
            proofs.append((str(proof["time"]), f"{proof['level']} proof {said} {proof['time'][:10]}"))
        except (Damage, KeyError, TypeError) as error:
            trouble(error)
    return max(proofs)[1] if proofs else "no proof"


def choose(vault: Vault, text: str) -> Backup:
    known = [b for b in find_backups(vault) if not b.state.startswith(("never", "abandoned"))]
    environment, _, which = text.partition("@")
    chosen = [b for b in known if b.id == text]
    if "/" not in text:
        mine = [b for b in known if b.id.startswith(f"{environment}/")]
        chosen = [b for b in mine if which in {"", "latest", b.day}]
    if not chosen:
        raise Stop(f"there is no backup {text!r} in this vault; `list` shows what there is", 2)
    return chosen[-1]


class Reader:
    """One backup, decrypted and verified as it is read."""

    def __init__(self, vault: Vault, backup: Backup, *, keep_going: bool) -> None:
        if not vault.private:
            raise Stop("this key can back up but not read data (a writer key): use a reader key", 7)
        self.vault, self.backup, self.keep_going = vault, backup, keep_going
        self._opened: OrderedDict[tuple[bytes, int], tuple[list[int], bytes]] = OrderedDict()
        self._boxes: dict[bytes, Any] = {}
        self._heads: dict[str, dict[bytes, bytes]] = {}
        self._done = 0
        name = backup.folder + "manifest"
        raw = vault.get(name)
        if hashlib.sha256(raw).hexdigest() != backup.about.get("checksum"):
            self.bad(Damage(f"{name} does not have the checksum that metadata.json says"))
        try:
            self._parse(raw, name)
        except InvalidTag:
            raise Damage(f"{name} was altered") from None
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise Damage(f"{name} was altered or cut short ({error})") from None

    def bad(self, error: Damage) -> None:
        """Stop, or with --keep-going tell it and go on."""
        if not self.keep_going:
            raise error
        trouble(error)

    def _parse(self, raw: bytes, name: str) -> None:
        if raw[:4] != b"KWM1":
            raise ValueError("no manifest of version 1")
        (outer,) = struct.unpack_from("<I", raw, 4)
        (sealed,) = struct.unpack_from("<I", raw, 8 + outer)
        at = 12 + outer + sealed
        box = self.vault.unseal("manifest", self.backup.id.encode(), raw[12 + outer : at], name)
        plain = unzstd(box.decrypt(bytes(12), raw[at:], hashlib.sha256(raw[:at]).digest()))
        (size,) = struct.unpack_from("<I", plain)
        document = json.loads(plain[4 : 4 + size])
        count, at = document["extents"], 4 + size
        self.columns = [column(plain, "I", count, at + 4 * count * i) for i in range(7)]
        self.checks = column(plain, "Q", count, at + 28 * count)
        self.packs = [(bytes.fromhex(birth), str(pack)) for birth, pack in document["packs"]]
        self.sources: dict[str, dict[str, Any]] = document["sources"]
        self.streams: list[Stream] = []
        first = 0
        for s in document["streams"]:
            last = first + s["extents"]
            ends = list(itertools.accumulate(self.columns[6][first:last]))
            if (ends[-1] if ends else 0) != s["size"]:
                raise ValueError(f"the extents of stream {s['name']} do not add up")
            self.streams.append(Stream(s["source"], s["name"], s["size"], s["digest"], s["cut"], first, ends))
            first = last
        if first != count or document["backup"] != self.backup.id:
            raise ValueError("extents are left over, or it is another backup's")

    def read(
        self, stream: Stream, start: int = 0, size: int | None = None, *, salvage: bool = False
    ) -> Iterator[bytes]:
        """Verified bytes. Raises Damage; with `salvage` lost bytes are told of, and are zeros (databases) or left out."""
        stop = stream.size if size is None else start + size
        if not 0 <= start <= stop <= stream.size:
            raise Damage(f"stream {stream.name} of {stream.source} is shorter than the backup says")
        digest = blake3.blake3(key=self._piece_key()) if blake3 and (start, stop) == (0, stream.size) else None
        i = bisect.bisect_right(stream.ends, start)
        at = stream.ends[i - 1] if i else 0
        while at < stop:
            length = stream.ends[i] - at
            try:
                tokens, block = self._extent(stream.first + i)
                if digest:
                    digest.update(tokens)
            except Damage as error:
                lost = f"{error} (needed for stream {stream.name} of {stream.source}, bytes {at} to {at + length})"
                if not salvage:
                    raise Damage(lost) from None
                trouble(lost)
                digest = None
                block = bytes(length) if stream.cut == "pages" else b""
            yield block[max(0, start - at) : stop - at]
            at, i = at + length, i + 1
            self._tell(length)
        if digest and digest.hexdigest() != stream.digest:
            raise Damage(f"stream {stream.name} of {stream.source} does not have the digest of backup time")

    def _tell(self, size: int) -> None:
        before, self._done = self._done, self._done + size
        if before >> 26 != self._done >> 26 and sys.stderr.isatty():
            print(f"\r{self._done / 1e6:,.0f} MB ", end="", file=sys.stderr, flush=True)

    def _piece_key(self) -> bytes:
        return derive(self.vault.writer, self.vault.id, "piece")

    def _extent(self, row: int) -> tuple[bytes, bytes]:
        pack, number, offset, length, first, count, size = (values[row] for values in self.columns)
        lengths, data = self._frame(*self.packs[pack], number, offset, length)
        begin = sum(lengths[:first])
        mine = lengths[first : first + count]
        block, tokens = data[begin : begin + sum(mine)], b""
        right = len(mine) == count and len(block) == size
        if blake3 and right:
            key, at, ids = self._piece_key(), 0, []
            for piece in mine:
                ids.append(blake3.blake3(block[at : at + piece], key=key).digest(16))
                at += piece
            check = int.from_bytes(blake3.blake3(b"".join(ids), key=key).digest(8), "little")
            right = check == self.checks[row]
            tokens = b"".join(i + struct.pack("<I", n) for i, n in zip(ids, mine, strict=True))
        if not right:
            raise Damage(f"frame {number} of {pack_name(self.packs[pack][1])} does not hold what the manifest says")
        return tokens, block

    def _frame(self, birth: bytes, pack: str, number: int, offset: int, length: int) -> tuple[list[int], bytes]:
        """The lengths of a frame's pieces, and the pieces: from its pack, or from one that it was moved to."""
        if (birth, number) in self._opened:
            self._opened.move_to_end((birth, number))
            return self._opened[birth, number]
        first: Damage | None = None
        for place in itertools.chain([(pack, offset, length)], self.vault.places(birth, number)):
            try:
                self._opened[birth, number] = self._open(birth, number, *place)
            except Damage as error:
                first = first or error
                continue
            if len(self._opened) > 64:
                self._opened.popitem(last=False)
            return self._opened[birth, number]
        raise first or Damage(f"{pack_name(pack)} is missing")

    def _open(self, birth: bytes, number: int, pack: str, offset: int, length: int) -> tuple[list[int], bytes]:
        what = f"frame {number} of {pack_name(pack)}"
        sealed = self._head(pack).get(birth)
        if sealed is None:
            raise Damage(f"{pack_name(pack)} does not hold what the manifest expects there")
        if birth not in self._boxes:
            self._boxes[birth] = self.vault.unseal("pack", birth, sealed, pack_name(pack))
        with (self.vault.root / pack_name(pack)).open("rb") as file:
            file.seek(offset)
            raw = file.read(length)
        try:
            size, full, codec, flags, zero, base, base_frame = FRAME.unpack_from(raw)
            if size + FRAME.size != len(raw) or flags or zero or any(base) or base_frame or codec > 1:
                raise ValueError("unexpected header")
            bound = self.vault.id + birth + struct.pack("<I", number) + raw[: FRAME.size]
            plain = self._boxes[birth].decrypt(number.to_bytes(12, "big"), raw[FRAME.size :], bound)
            plain = unzstd(plain, full) if codec else plain
            (count,) = struct.unpack_from("<I", plain)
            lengths = list(struct.unpack_from(f"<{count}I", plain, 4))
            if len(plain) != full or 4 + 4 * count + sum(lengths) != full:
                raise ValueError("lengths do not add up")
        except InvalidTag:
            raise Damage(f"{what} was altered") from None
        except (struct.error, ValueError) as error:
            raise Damage(f"{what} was altered or cut short ({error})") from None
        return lengths, plain[4 + 4 * count :]

    def _head(self, pack: str) -> dict[bytes, bytes]:
        if pack not in self._heads:
            path = self.vault.root / pack_name(pack)
            if not path.is_file():
                raise Damage(f"{pack_name(pack)} is missing (if this is a copy: was it downloaded whole?)")
            with path.open("rb") as file:
                # A pack's name is its SHA-256. Where pieces cannot be checked, this shows that nobody replaced it.
                if not blake3 and hashlib.file_digest(file, "sha256").hexdigest() != pack:
                    self.bad(Damage(f"{pack_name(pack)} was altered or cut short: its SHA-256 is not its name"))
                file.seek(0)
                head = file.read(8)
                count = struct.unpack("<4xBBH", head)[2] if len(head) == 8 else 0
                self._heads[pack] = dict(sections(head + file.read(1300 * count), pack_name(pack)))
        return self._heads[pack]


# Writing what comes out


def safe(name: str) -> str:
    """A file name for a stream, whatever its name is."""
    quoted = urllib.parse.quote(name, safe="")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def write(reader: Reader, streams: Iterable[Stream], path: Path) -> None:
    """The streams, one after the other, as a new file: `.incomplete` until all is there and verified."""
    path.parent.mkdir(exist_ok=True)
    partial, before, size = path.with_name(path.name + ".incomplete"), len(troubles), 0
    with partial.open("xb") as file:
        for stream in streams:
            for block in reader.read(stream, salvage=reader.keep_going):
                size += file.write(block)
    if len(troubles) > before:
        note(f"{partial} is what could be saved of {path.name}; it is not whole")
        return
    if path.exists():
        raise Stop(f"{path} exists already")
    partial.rename(path)
    print(f"{size:>15,} bytes  {path}")


class Tree:
    """The folder tree of a files source, from the lines of `tree` and the bytes of `content`.

    Nothing is written outside `root`, nor through a link: a name is only ever made in a folder that was made here.
    """

    def __init__(self, reader: Reader, content: Stream, root: Path) -> None:
        self.reader, self.content, self.root = reader, content, root
        self.folders: list[tuple[Path, dict[str, Any]]] = []
        self.made = {b""}
        self.files, self.warnings = 0, 0
        root.mkdir()

    def add(self, line: bytes) -> None:
        """Raises Damage, OSError."""
        try:
            entry = json.loads(line)
            path, kind = self.name(entry, "path"), entry["type"]
            parent = path.rpartition(b"/")[0]
            if path and parent not in self.made:
                if not self.reader.keep_going:
                    raise ValueError("its folder is missing")
                self.make_parents(parent)
            place = self.root / os.fsdecode(path)
            if kind == "folder":
                if path:
                    place.mkdir()
                    self.made.add(path)
                self.folders.append((place, entry))
            elif kind == "symlink":
                place.symlink_to(os.fsdecode(self.text(entry, "target")))
                self.dress(place, entry)
            elif kind in {"file", "hardlink"}:
                if kind == "file" or not self.link(self.name(entry, "target"), place):
                    self.write(place, entry)
                self.files += 1
            else:
                raise ValueError(f"it is a {kind!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damage(f"the list of files has a line that cannot be used ({error}): {line[:200]!r}") from None

    def text(self, entry: dict[str, Any], key: str) -> bytes:
        return str(entry[key]).encode() if key in entry else unbase64(entry[key + "64"])

    def name(self, entry: dict[str, Any], key: str) -> bytes:
        """A path below the root; empty for the root itself. Raises ValueError where it leads elsewhere."""
        path = self.text(entry, key)
        if path == b".":
            return b""
        bad = rb'[\\:*?"<>|\x00-\x1f]' if os.name == "nt" else rb"\x00"
        if any(part in {b"", b".", b".."} for part in path.split(b"/")) or re.search(bad, path):
            raise ValueError("a path that leads elsewhere or is not possible here")
        return path

    def make_parents(self, path: bytes) -> None:
        """With --keep-going: folders whose lines are lost. Raises FileExistsError where a link or file is there."""
        if path not in self.made:
            self.make_parents(path.rpartition(b"/")[0])
            (self.root / os.fsdecode(path)).mkdir()
            self.made.add(path)

    def link(self, target: bytes, place: Path) -> bool:
        """A hard link to a file that was made here; False where there is none."""
        first = self.root / os.fsdecode(target)
        if target.rpartition(b"/")[0] in self.made and first.exists() and stat.S_ISREG(first.lstat().st_mode):
            with contextlib.suppress(OSError):
                os.link(first, place)
                return True
        return False

    def write(self, place: Path, entry: dict[str, Any]) -> None:
        digest = blake3.blake3() if blake3 else None
        with place.open("xb") as file:
            try:
                for block in self.reader.read(self.content, int(entry["offset"]), int(entry["size"])):
                    file.write(block)
                    if digest:
                        digest.update(block)
                if digest and digest.hexdigest() != entry["digest"]:
                    raise Damage("other bytes came out than went in")
            except BaseException as error:
                file.close()
                place.unlink()
                if isinstance(error, Damage):
                    raise Damage(f"the file {place} is lost: {error}") from None
                raise
        self.dress(place, entry)

    def dress(self, place: Path, entry: dict[str, Any]) -> None:
        """Owner (as root only), rights, attributes and times, as far as this system has them."""
        link = entry["type"] == "symlink"
        try:
            if hasattr(os, "geteuid") and os.geteuid() == 0:
                uid = owner("pwd", "getpwnam", entry.get("user"), entry["uid"])
                gid = owner("grp", "getgrnam", entry.get("group"), entry["gid"])
                os.chown(place, uid, gid, follow_symlinks=False)
            if not link:
                place.chmod(entry["mode"] & 0o7777)
            for key, value in entry.get("xattrs", []) if hasattr(os, "setxattr") else []:
                os.setxattr(place, unbase64(key), unbase64(value), follow_symlinks=False)
            if not link or os.utime in os.supports_follow_symlinks:
                os.utime(place, ns=(entry["mtime_ns"], entry["mtime_ns"]), follow_symlinks=not link)
        except OSError as error:
            self.warnings += 1
            note(f"not all attributes of {place} could be set: {error.strerror}")

    def finish(self) -> None:
        """Folders get theirs when nothing is written into them any more."""
        for place, entry in reversed(self.folders):
            self.dress(place, entry)


def owner(module: str, lookup: str, name: str | None, number: int) -> int:
    """The number of that name here; the number of backup time where there is no such name."""
    try:
        return int(getattr(importlib.import_module(module), lookup)(name)[2])
    except (KeyError, TypeError):
        return number


def write_tree(reader: Reader, streams: dict[str, Stream], root: Path) -> None:
    tree, rest = Tree(reader, streams["content"], root), b""
    for block in itertools.chain(reader.read(streams["tree"], salvage=reader.keep_going), [b"\n"]):
        *lines, rest = (rest + block).split(b"\n")
        for line in filter(None, lines):
            try:
                tree.add(line)
            except Damage as error:
                reader.bad(error)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}:
                    raise
                reader.bad(Damage(f"a file cannot be written here: {error}"))
    tree.finish()
    print(f"{tree.files:>15,} files  {root}")


def restore(vault: Vault, args: argparse.Namespace) -> None:
    to: Path = args.to
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Stop(f"{to} is there and not an empty folder: nothing is ever overwritten, name a new one", 2)
    if to.resolve().is_relative_to(vault.root.resolve()):
        raise Stop(f"{to} is inside the vault: name a folder elsewhere", 2)
    reader = Reader(vault, choose(vault, args.backup), keep_going=args.keep_going)
    name = args.source or (next(iter(reader.sources)) if len(reader.sources) == 1 else "")
    if name not in reader.sources:
        raise Stop(f"--source must be one of: {', '.join(reader.sources)}", 2)
    if reader.sources[name]["status"] != "complete":
        why = reader.sources[name].get("error", "it was not asked for")
        raise Stop(f"{reader.backup.id} has no data of {name} ({why}): use another backup")
    facts = reader.sources[name]["facts"]
    streams = {s.name: s for s in reader.streams if s.source == name}
    if unknown := set(args.stream or ()) - set(streams):
        raise Stop(f"there is no stream {', '.join(unknown)}; there is {', '.join(streams)}", 2)
    to.mkdir(parents=True, exist_ok=True)
    print(f"{name} of {reader.backup.id} ({reader.backup.state})")
    raw = set(args.stream or streams)
    if not args.stream and not args.raw:
        kind = facts.get("type")
        if kind == "postgres":
            order = [n for n in facts.get("streams", streams) if re.fullmatch("pre-data|data-.*|post-data", n)]
            write(reader, (take(streams, n) for n in order), to / "database.sql")
            raw -= set(order)
            hint = "createdb NEW_DATABASE; psql -X -v ON_ERROR_STOP=1 -d NEW_DATABASE -f database.sql"
            print(f"To load it: {hint}\n(roles, if they are missing there: streams/globals)")
        elif kind == "sqlite":
            write(reader, [take(streams, "database")], to / "database.db")
            raw.discard("database")
        elif kind == "files":
            write_tree(reader, {n: take(streams, n) for n in ("tree", "content")}, to / "files")
            raw -= {"tree", "content"}
    for stream in (s for s in streams.values() if s.name in raw):
        write(reader, [stream], to / "streams" / safe(stream.name))
    checked = (
        "pieces by their ids, streams by their digests" if blake3 else "packs by their SHA-256 (blake3 is not here)"
    )
    print(f"Checked: the manifest by its SHA-256, frames by their tags, all sizes, and {checked}.")


def take(streams: dict[str, Stream], name: str) -> Stream:
    if name not in streams:
        raise Damage(f"the backup has no stream {name}")
    return streams[name]


# The command line


def list_backups(vault: Vault) -> None:
    for b in find_backups(vault):
        size = f"{b.about.get('size', 0) / 1e6:,.1f} MB"
        sources = ", ".join(b.about.get("sources", {}))
        print(show(f"{b.id}  {b.tier:8}{b.state:12}{size:>14}  {last_proof(vault, b)}  [{sources}]"))
        for name in b.about.get("portable", {}):
            print(show(f"    a copy that needs no key: {b.folder}{name}"))
    print("Verified with the key." if vault.writer else "Not verified: no key was given. Choose one that is complete.")


def show_backup(vault: Vault, args: argparse.Namespace) -> None:
    backup = choose(vault, args.backup)
    reader = Reader(vault, backup, keep_going=args.keep_going)
    print(show(f"{backup.id}  {backup.tier}  {backup.state}  {last_proof(vault, backup)}"))
    for name, source in reader.sources.items():
        facts = source["facts"]
        print(show(f"\nsource {name}: {facts.get('type', '?')}, {source['status']} {source.get('error', '')}"))
        for key in ("database", "version", "bytes", "files", "folders"):
            if key in facts:
                print(show(f"    {key} {facts[key]}"))
        for table, known in facts.get("tables", {}).items():
            print(show(f"    table {table}: {known.get('rows', '?')} rows"))
        for stream in (s for s in reader.streams if s.source == name):
            print(show(f"    stream {stream.name}: {stream.size:,} bytes"))


def arguments() -> argparse.Namespace:
    about, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "recover.py", description=about, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vault", type=Path, metavar="VAULT_FOLDER", help="the folder that vault.json is in")
    key = argparse.ArgumentParser(add_help=False)
    one = key.add_mutually_exclusive_group()
    one.add_argument("--key-file", type=Path, metavar="FILE")
    one.add_argument("--passphrase-file", type=Path, metavar="FILE", help="without a key, the passphrase is asked for")
    key.add_argument("--keep-going", action="store_true", help="save what can be saved of a damaged backup")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[key], help="the backups; with a key they are verified")
    commands.add_parser("show", parents=[key], help="what is in a backup").add_argument("backup", metavar="BACKUP")
    back = commands.add_parser("restore", parents=[key], help="get a source of a backup back into a new folder")
    back.add_argument("backup", metavar="BACKUP")
    back.add_argument("--source", metavar="NAME", help="`show` lists them")
    back.add_argument("--to", type=Path, required=True, metavar="NEW_FOLDER")
    back.add_argument("--stream", action="append", metavar="NAME", help="only this stream, as it is; repeatable")
    back.add_argument("--raw", action="store_true", help="all streams as they are, not put together")
    return parser.parse_args()


def main() -> int:
    os.umask(0o077)  # what comes out was secret
    args = arguments()
    try:
        vault = Vault(args.vault)
        if args.command != "list" or args.key_file or args.passphrase_file:
            vault.unlock(args.key_file, args.passphrase_file)
        if args.command == "list":
            list_backups(vault)
        else:
            {"show": show_backup, "restore": restore}[args.command](vault, args)
    except Stop as error:
        note(f"ERROR: {error}")
        return error.code
    except OSError as error:
        note(f"ERROR: {error}")
        return 1
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    if troubles:
        note(f"{len(troubles)} things are damaged (see above).")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
