"""recover.py: get data back out of a keepwell vault, without keepwell.

Needs Python 3.11 or newer and, to decrypt, two packages:   python3 -m pip install cryptography backports.zstd
Works on a folder with the whole vault in it (a downloaded copy of the bucket), and never writes there.

    python3 recover.py VAULT_FOLDER list
    python3 recover.py VAULT_FOLDER show BACKUP --key-file KEY
    python3 recover.py VAULT_FOLDER restore BACKUP --source NAME --to NEW_FOLDER --key-file KEY
    python3 recover.py VAULT_FOLDER wal ENVIRONMENT/SOURCE --to NEW_FOLDER --key-file KEY

BACKUP is an id as `list` shows it, or production@latest, production@proven, or production@2026-11-22 (that day's newest, UTC).
Exit status: 0 all is well, 1 something is damaged or failed, 2 wrong usage, 7 the key does not fit or cannot read.
The format is described in docs/format.md of keepwell; the sections named below are its.
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
import shutil
import stat
import struct
import sys
import urllib.parse
import warnings
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MISSING = ""
try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as problem:  # `list` works without
    MISSING, InvalidTag = f"cryptography, version 50 or newer ({problem})", ValueError  # type: ignore[assignment, misc]


def find_module(*names: str) -> Any:
    for name in names:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


zstd = find_module("compression.zstd", "backports.zstd", "pyzstd", "zstandard")
blake3 = find_module("blake3")  # not needed; with it, each piece and each stream is checked besides
MISSING = MISSING or ("" if zstd else "backports.zstd")

FOLDER = re.compile(r"([a-z0-9][a-z0-9_-]*)/(daily|weekly|monthly|manual)/(\d{4})-(\d\d)-(\d\d)/(\d{6}Z-[0-9a-f]{4})")
FRAME = struct.Struct("<IIBBH16sI")


class Stop(Exception):
    """The work ends here; the text is for the user."""

    code = 1


class Damage(Stop):
    """Bytes in the vault are missing, altered or cut short."""


class Usage(Stop):
    code = 2


class Key(Stop):
    code = 7


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """What goes wrong with bytes from the vault is damage of `what`."""
    try:
        yield
    except FileNotFoundError:
        raise Damage(f"{what} is missing (if this is a copy of the vault: is it whole?)") from None
    except OSError as error:
        raise Damage(f"{what} cannot be read ({error})") from None
    except InvalidTag:
        raise Damage(f"{what} was altered: its authentication tag does not match") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise Damage(f"{what} was altered or cut short ({error})") from None


troubles: list[str] = []


def trouble(text: object) -> None:
    """Something is damaged, and the work goes on: it is told at once, and makes the exit status 1."""
    if str(text) not in troubles:
        troubles.append(str(text))
        note(f"DAMAGED: {text}")


def note(text: str) -> None:
    print(show(text), file=sys.stderr)


def show(text: object) -> str:
    """Fit for a terminal, whatever is in it."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))


def unzstd(data: bytes, size: int | None = None) -> bytes:
    """One frame of zstd; with `size` never more than that many bytes. Raises ValueError."""
    try:
        if zstd.__name__ == "zstandard":
            with zstd.ZstdDecompressor().stream_reader(data) as reader:
                plain: bytes = reader.readall() if size is None else reader.read(size + 1)
        else:
            plain = zstd.decompress(data) if size is None else zstd.ZstdDecompressor().decompress(data, size + 1)
    except (zstd.ZstdError, EOFError) as error:
        raise ValueError(f"zstd: {error}") from None
    if size is not None and len(plain) != size:
        raise ValueError("zstd: another length than announced")
    return plain


def unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def derive(secret: bytes, salt: bytes, name: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, b"keepwell/1/" + name.encode()).derive(secret)


def column(data: bytes, code: str, count: int, at: int) -> array[int]:
    values = array(code)
    values.frombytes(data[at : at + count * values.itemsize])
    if len(values) != count:
        raise ValueError("cut short")
    if sys.byteorder == "big":
        values.byteswap()
    return values


def pack_name(sha256: str) -> str:
    return f"packs/{sha256[:2]}/{sha256}"


def sections(head: bytes) -> dict[bytes, bytes]:
    """Birth ids and sealed keys from the beginning of a pack (section 4). Raises ValueError, struct.error."""
    magic, version, flags, count = struct.unpack_from("<4sBBH", head)
    if (magic, version, flags) != (b"KWPK", 1, 0) or not count:
        raise ValueError("no pack of version 1")
    found, at = {}, 8
    for _ in range(count):
        (length,) = struct.unpack_from("<I", head, at + 16)
        found[head[at : at + 16]] = head[at + 20 : at + 20 + length]
        at += 20 + length
    return found


Places = dict[bytes, list[tuple[str, list[Any]]]]
"""Birth id -> packs that hold frames of it: name, and columns of number, offset, length."""


class Vault:
    """The folder. `unlock` sets `writer` (enough to verify) and, with a reader key, `private` (needed to decrypt)."""

    def __init__(self, root: Path) -> None:
        self.root, self.writer, self.private = root, b"", b""
        if not (root / "vault.json").is_file():
            raise Usage(f"{root} is not a vault: name the folder that vault.json is in")
        self.raw = self.get("vault.json")
        with reading("vault.json"):
            document = json.loads(self.raw)
            self.id, version = bytes.fromhex(document["vault"]), document["format"]
            features = document["features"]["read"]
        if version != 1 or features:
            raise Stop(f"this vault (format {version}, features {features}) needs a newer recover.py")
        self._places: Places | None = None

    def get(self, name: str) -> bytes:
        with reading(name):
            return (self.root / name).read_bytes()

    # Keys (section 3)

    def unlock(self, key_file: Path | None, passphrase_file: Path | None) -> None:
        if MISSING:
            raise Stop(f"Python needs {MISSING}: python3 -m pip install cryptography backports.zstd")
        try:
            secret, own = self._secret(key_file, passphrase_file)
        except (OSError, ValueError) as error:
            raise Key(f"the key cannot be read: {error}") from None
        except (EOFError, getpass.GetPassWarning):
            raise Key("a key is needed: --key-file FILE or --passphrase-file FILE") from None
        kind, what = ("keyfile", "key file") if own else ("passphrase", "passphrase")
        names = [f"{own}.json"] if own else sorted(path.name for path in (self.root / "keys").glob("*.json"))
        failures = ""
        for name in (f"keys/{name}" for name in names):
            try:
                with reading(name):
                    slot = json.loads(self.get(name))
                    if slot["kind"] != kind:
                        continue
                    box, bound = AESGCM(self._wrapping(secret, slot["kdf"])), self.id + slot["slot"].encode()
                    nonce, sealed = unbase64(slot["nonce"]), unbase64(slot["sealed"])
                    payload = json.loads(box.decrypt(nonce, sealed, b"keepwell/1/slot" + bound))
                    self.writer, self.private = unbase64(payload["writer"]), unbase64(payload.get("private", ""))
            except Damage as error:
                failures += f"\n  or {error}"
                continue
            if payload["vault_json"] != hashlib.sha256(self.raw).hexdigest():
                trouble("vault.json is not the one that this key was made for: do not back up into this vault")
            return
        raise Key(f"the {what} is wrong: it opens no key slot of this vault{failures}")

    def _secret(self, key_file: Path | None, passphrase_file: Path | None) -> tuple[bytes, str]:
        """The secret, and where it is from a key file, the slot that it is for."""
        if key_file:
            lines = key_file.read_text(encoding="ascii", errors="replace").splitlines()
            parts = [line.strip().split(":") for line in lines if line.strip() and not line.startswith("#")]
            if len(parts) != 1 or len(parts[0]) != 4 or parts[0][0] != "keepwell-key-1":
                raise Key(f"{key_file} is not a keepwell key file (one line keepwell-key-1:...)")
            _, vault, slot, secret = parts[0]
            if vault != self.id.hex() or not slot.isalnum():
                raise Key(f"{key_file} is the key of another vault ({vault}; this one is {self.id.hex()})")
            return unbase64(secret), slot
        if passphrase_file:
            return passphrase_file.read_text(encoding="utf-8").rstrip("\r\n").encode(), ""
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass("Passphrase of the vault: ").encode(), ""

    def _wrapping(self, secret: bytes, kdf: dict[str, Any]) -> bytes:
        salt = unbase64(kdf["salt"])
        if kdf["name"] == "hkdf-sha256":
            return derive(secret, salt, "keyfile")
        memory, passes, lanes = int(kdf["memory_kib"]), int(kdf["passes"]), int(kdf["lanes"])
        if not (8 * lanes <= memory <= 4 << 20 and 1 <= passes <= 64 and 1 <= lanes <= 64):
            raise ValueError("parameters of Argon2id are out of range")
        return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(secret)

    def envelope(self, name: str, sealed: bytes) -> bytes:
        with reading(name):
            if sealed[:4] != b"KWE1":
                raise ValueError("not an object of keepwell")
            box = AESGCM(derive(derive(self.writer, self.id, "index"), sealed[4:36], "envelope"))
            return box.decrypt(bytes(12), sealed[36:], self.id + name.encode())

    def unseal(self, purpose: str, bound: bytes, sealed: bytes) -> Any:
        """The AES-256-GCM box whose key is sealed to the vault's public key. Raises InvalidTag, ValueError."""
        pair = MLKEM768X25519PrivateKey(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(self.private[:64]),
            x25519.X25519PrivateKey.from_private_bytes(self.private[64:]),
        )
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        return AESGCM(suite.decrypt(sealed, pair, b"keepwell/1/" + purpose.encode() + self.id + bound))

    def document(self, name: str) -> dict[str, Any]:
        """A JSON object that anyone can read; with a key it is authenticated, too (section 7)."""
        raw = self.get(name)
        with reading(name):
            found: dict[str, Any] = json.loads(raw)
            claimed = str(found.pop("mac"))
            field = f'"mac": "{claimed}"'.encode()
            if len(claimed) != 64 or raw.count(field) != 1:
                raise ValueError("no authentication code")
            if self.writer:
                blank = raw.replace(field, b'"mac": "%s"' % (b"0" * 64))
                key = derive(self.writer, self.id, "mac")
                right = hmac.new(key, name.encode() + b"\0" + blank, hashlib.sha256).hexdigest()
                if not hmac.compare_digest(claimed.encode(), right.encode()):
                    raise ValueError("its authentication code does not match")
        return found

    # Where frames are whose pack is gone: a prune may have moved them (sections 5 and 6)

    def places(self, birth: bytes, number: int) -> Iterator[tuple[str, int, int]]:
        """Pack, offset and length of a frame, wherever it lies; looked for in the index, else in packs' trailers."""
        if self._places is None:
            self._places = self._survey()
        for pack, (numbers, offsets, lengths) in self._places.get(birth, ()):
            if number in numbers:
                at = numbers.index(number)
                yield pack, offsets[at], lengths[at]

    def _survey(self) -> Places:
        found: Places = {}
        there = {path.name for path in (self.root / "packs").glob("*/*")}
        known: set[str] = set()

        def entry(data: bytes, at: int, pack: str) -> int:
            (size,) = struct.unpack_from("<I", data, at)
            head, at = json.loads(data[at + 4 : at + 4 + size]), at + 4 + size
            pack, frames, first = pack or head["pack"], int(head["frames"]), 0
            table = [column(data, "I", frames, at + 4 * frames * i) for i in range(3)]
            for section in head["sections"] if pack in there - known else ():
                mine = slice(first, first := first + section["frames"])
                found.setdefault(bytes.fromhex(section["birth"]), []).append((pack, [c[mine] for c in table]))
            known.add(pack)
            return at + 16 * frames + 16 * int(head["pieces"])

        for name in sorted(f"index/{path.name}" for path in (self.root / "index").glob("*")):
            try:
                with reading(name):
                    data, at = unzstd(self.envelope(name, self.get(name))), 4
                    for _ in range(struct.unpack_from("<I", data)[0]):
                        at = entry(data, at, "")
            except Damage as error:
                note(f"{error}; what packs say of themselves is used instead")
        for pack in sorted(there - known):
            try:
                with reading(pack_name(pack)):
                    raw = self.get(pack_name(pack))
                    (length,) = struct.unpack_from("<I", raw, len(raw) - 8)
                    birth = next(iter(sections(raw))).hex()
                    entry(unzstd(self.envelope(f"trailer/{birth}", raw[len(raw) - 8 - length : -8])), 0, pack)
            except Damage as error:
                note(f"{error}; it is not looked into")
        return found


# Backups (sections 6 and 7)


class Backup(NamedTuple):
    folder: str
    id: str
    day: str
    tier: str
    about: dict[str, Any]
    """metadata.json; empty where it is damaged."""
    status: str
    problem: str
    proven: bool
    proof: str
    """The newest one."""


class Stream(NamedTuple):
    source: str
    name: str
    size: int
    digest: str
    cut: str
    first: int
    """The first of its extents in the columns."""
    ends: list[int]
    """Where in the stream each of them ends."""


def find_backups(vault: Vault) -> list[Backup]:
    """All of them, oldest first."""
    marks: set[str] = set()
    for path in (vault.root / "trash").glob("*.json"):
        try:
            marks.update(vault.document(f"trash/{path.name}")["backups"])
        except Damage as error:
            note(str(error))
    found = []
    for path in vault.root.glob("*/*/*/*"):
        folder = path.relative_to(vault.root).as_posix()
        if match := FOLDER.fullmatch(folder):
            environment, tier, year, month, day, time = match.groups()
            ident = f"{environment}/{year}{month}{day}T{time}"
            about: dict[str, Any] = {}
            status, problem, proven, proof = "unfinished", "", False, ""
            try:
                if (path / "metadata.json").exists():
                    about = vault.document(f"{folder}/metadata.json")
                    with reading(f"{folder}/metadata.json"):
                        if about["backup"] != ident:
                            raise ValueError("it belongs to another backup")
                        status = str(about["status"])
                    proven, proof = proofs(vault, folder, about)
                if status in {"complete", "incomplete"} and not (path / "manifest").exists():
                    raise Damage(f"{folder}/manifest is missing")
            except Damage as error:
                status, problem = "DAMAGED", str(error)
            if f"{folder}/" in marks:
                status += ", to be deleted"
            backup = Backup(f"{folder}/", ident, f"{year}-{month}-{day}", tier, about, status, problem, proven, proof)
            found.append(backup)
    return sorted(found, key=lambda b: (b.id.partition("/")[0], b.id))


def proofs(vault: Vault, folder: str, about: dict[str, Any]) -> tuple[bool, str]:
    """Whether the backup is proven, and what the newest proof said."""
    proven, said = False, "no proof"
    names = sorted(f"{folder}/{path.name}" for path in (vault.root / folder).glob("proof-*.json"))  # by time
    for name in names:
        try:
            proof = vault.document(name)
            with reading(name):
                passed = proof["passed"] is True and proof["checksum"] == about["checksum"]
                details = unzstd(vault.envelope(name, unbase64(proof["details"]))) if vault.writer else b"{}"
                counts = proof["level"] != "objects" and json.loads(details).get("whole") is not False
                proven = passed and (proven or counts) and about["status"] == "complete"
                said = "proven" if proven else "proof passed" if passed else "proof FAILED"
                said += f" {proof['time'][:10]} ({proof['level']})"
        except Damage as error:
            note(str(error))
            proven, said = False, "proof DAMAGED"
    return proven, said


def choose(vault: Vault, text: str) -> Backup:
    known = [b for b in find_backups(vault) if not b.status.startswith(("unfinished", "abandoned"))]
    chosen = [b for b in known if b.id == text]
    if "/" not in text:
        environment, _, which = text.partition("@")
        mine = [b for b in known if b.id.startswith(f"{environment}/")]
        chosen = [b for b in mine if which in {"", "latest", b.day} or (which == "proven" and b.proven)]
    if not chosen:
        raise Usage(f"there is no backup {text!r} in this vault; `list` shows what there is")
    if chosen[-1].problem:
        trouble(chosen[-1].problem)
    return chosen[-1]


class Reader:
    """One backup, decrypted and verified as it is read."""

    def __init__(self, vault: Vault, backup: Backup, *, keep_going: bool) -> None:
        if not vault.private:
            raise Key("this is a writer key, which can back up but not read data: use a reader key")
        self.vault, self.backup, self.keep_going = vault, backup, keep_going
        self.lost = 0
        """Bytes that were left out."""
        self._done = 0
        self._frames: OrderedDict[tuple[bytes, int], tuple[list[int], bytes]] = OrderedDict()
        self._boxes: dict[bytes, Any] = {}
        self._checked: set[str] = set()
        self._piece_key = derive(vault.writer, vault.id, "piece")
        name = f"{backup.folder}manifest"
        raw = vault.get(name)
        if hashlib.sha256(raw).hexdigest() != backup.about.get("checksum"):
            self.bad(Damage(f"{name} does not have the checksum that metadata.json says"))
        with reading(name):
            self._parse(raw)

    def bad(self, error: Damage) -> None:
        """The end; or with --keep-going something to tell."""
        if not self.keep_going:
            raise error
        trouble(error)

    def _parse(self, raw: bytes) -> None:
        if raw[:4] != b"KWM1":
            raise ValueError("no manifest of version 1")
        (outer,) = struct.unpack_from("<I", raw, 4)
        (sealed,) = struct.unpack_from("<I", raw, 8 + outer)
        at = 12 + outer + sealed
        box = self.vault.unseal("manifest", self.backup.id.encode(), raw[12 + outer : at])
        plain = unzstd(box.decrypt(bytes(12), raw[at:], hashlib.sha256(raw[:at]).digest()))
        (size,) = struct.unpack_from("<I", plain)
        document, at = json.loads(plain[4 : 4 + size]), 4 + size
        count = document["extents"]
        self._columns = [column(plain, "I", count, at + 4 * count * i) for i in range(7)]
        self._checks = column(plain, "Q", count, at + 28 * count)
        self._packs = [(bytes.fromhex(birth), str(pack)) for birth, pack in document["packs"]]
        self.sources: dict[str, dict[str, Any]] = document["sources"]
        self.streams: list[Stream] = []
        first = 0
        for s in document["streams"]:
            ends = list(itertools.accumulate(self._columns[6][first : first + s["extents"]]))
            if (ends or [0])[-1] != s["size"]:
                raise ValueError(f"the extents of stream {s['name']} do not add up")
            self.streams.append(Stream(s["source"], s["name"], s["size"], s["digest"], s["cut"], first, ends))
            first += s["extents"]
        if first != count or document["backup"] != self.backup.id:
            raise ValueError("extents are left over, or it is another backup's")

    def read(
        self, stream: Stream, start: int = 0, size: int | None = None, *, salvage: bool = False
    ) -> Iterator[bytes]:
        """Verified bytes. Raises Damage; with `salvage`, what is lost becomes zeros (databases) or is left out."""
        what = f"stream {stream.name} of {stream.source}"
        stop = stream.size if size is None else start + size
        if not 0 <= start <= stop <= stream.size:
            raise Damage(f"{what} has not the bytes {start} to {stop}")
        digest = blake3.blake3(key=self._piece_key) if blake3 and (start, stop) == (0, stream.size) else None
        i = bisect.bisect_right(stream.ends, start)
        at = stream.ends[i - 1] if i else 0
        while at < stop:
            length = stream.ends[i] - at
            try:
                tokens, block = self._extent(stream.first + i)
                if digest:
                    digest.update(tokens)
            except Damage as error:
                lost = Damage(f"{error}; it has bytes {at} to {at + length} of {what}")
                if not salvage:
                    raise lost from None
                trouble(lost)
                self.lost += length
                digest, block = None, bytes(length) if stream.cut == "pages" else b""
            yield block[max(0, start - at) : stop - at]
            at, i = at + length, i + 1
            self._tell(length)
        if digest and digest.hexdigest() != stream.digest:
            self.bad(Damage(f"{what} does not have the digest of backup time"))

    def _tell(self, size: int) -> None:
        before, self._done = self._done, self._done + size
        if before >> 26 != self._done >> 26 and sys.stderr.isatty():
            print(f"\r{self._done / 1e6:,.0f} MB ", end="", file=sys.stderr, flush=True)

    def _extent(self, row: int) -> tuple[bytes, bytes]:
        """A run of pieces: their ids and lengths (as digested; with blake3 only), and their bytes."""
        home, number, offset, length, first, count, size = (values[row] for values in self._columns)
        birth, pack = self._packs[home]
        lengths, data = self._frame(birth, pack, number, offset, length)
        at, mine, tokens, ids = sum(lengths[:first]), lengths[first : first + count], b"", b""
        block = data[at : at + sum(mine)]
        right = len(mine) == count and len(block) == size
        if blake3:
            for piece in mine:
                ident = blake3.blake3(data[at : at + piece], key=self._piece_key).digest(16)
                ids, tokens, at = ids + ident, tokens + ident + struct.pack("<I", piece), at + piece
            check = blake3.blake3(ids, key=self._piece_key).digest(8)
            right = right and int.from_bytes(check, "little") == self._checks[row]
        if not right:
            raise Damage(f"frame {number} of {pack_name(pack)} does not hold the pieces that the manifest says")
        return tokens, block

    def _frame(self, birth: bytes, pack: str, number: int, offset: int, length: int) -> tuple[list[int], bytes]:
        """The lengths of a frame's pieces, and the pieces: from its pack, or from where a prune moved it."""
        if (birth, number) in self._frames:
            self._frames.move_to_end((birth, number))
            return self._frames[birth, number]
        first: Damage | None = None
        for place in itertools.chain([(pack, offset, length)], self.vault.places(birth, number)):
            try:
                with reading(f"frame {number} of {pack_name(place[0])}"):
                    opened = self._open(birth, number, *place)
            except Damage as error:
                first = first or error
                continue
            self._frames[birth, number] = opened
            if len(self._frames) > 64:
                self._frames.popitem(last=False)
            return opened
        raise first or Damage(f"{pack_name(pack)} is missing")

    def _open(self, birth: bytes, number: int, pack: str, offset: int, length: int) -> tuple[list[int], bytes]:
        with (self.vault.root / pack_name(pack)).open("rb") as file:
            # A pack's name is its SHA-256: where the pieces cannot be checked, this shows that nobody replaced it.
            if pack not in self._checked and not blake3 and hashlib.file_digest(file, "sha256").hexdigest() != pack:
                self.bad(Damage(f"{pack_name(pack)} was altered or cut short: its SHA-256 is not its name"))
            self._checked.add(pack)
            if birth not in self._boxes:
                file.seek(0)
                head = file.read(8)
                head += file.read(1300 * struct.unpack("<4xBBH", head)[2])
                self._boxes[birth] = self.vault.unseal("pack", birth, sections(head)[birth])
            file.seek(offset)
            raw = file.read(length)
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
        return lengths, plain[4 + 4 * count :]


# What comes out


def write(reader: Reader, streams: Iterable[Stream], path: Path) -> None:
    """The streams, one after the other, as a new file: `.incomplete` until all is there and verified."""
    path.parent.mkdir(exist_ok=True)
    partial, before, size = path.with_name(f"{path.name}.incomplete"), reader.lost, 0
    with partial.open("xb") as file:
        for stream in streams:
            for block in reader.read(stream, salvage=reader.keep_going):
                size += file.write(block)
    finish(partial, path, f"{size:>15,} bytes", whole=reader.lost == before)


def write_bundle(reader: Reader, head: Stream, objects: Stream, kind: str, path: Path) -> None:
    """The head of a git bundle, its objects, and what git wants at the end: the hash of everything from `PACK` on."""
    path.parent.mkdir(exist_ok=True)
    partial, before, size = path.with_name(f"{path.name}.incomplete"), reader.lost, 0
    first = b"".join(reader.read(head, salvage=reader.keep_going))
    hasher = hashlib.new("sha256" if kind == "sha256" else "sha1", first[-12:])
    with partial.open("xb") as file:
        size += file.write(first)
        for block in reader.read(objects, salvage=reader.keep_going):
            hasher.update(block)
            size += file.write(block)
        size += file.write(hasher.digest())
    finish(partial, path, f"{size:>15,} bytes", whole=reader.lost == before)


def finish(partial: Path, path: Path, what: str, *, whole: bool) -> None:
    if whole and not path.exists():
        partial.rename(path)
    print(show(f"{what}  {path if whole else f'{partial}: what could be saved, NOT WHOLE'}"))


class Tree:
    """The folder tree of a files source, from the lines of stream `tree` and the bytes of stream `content`.

    Nothing is written outside `root`, nor through a link: names are made only in folders that were made here.
    """

    def __init__(self, reader: Reader, content: Stream, root: Path) -> None:
        self.reader, self.content, self.root = reader, content, root
        self.folders: list[tuple[Path, dict[str, Any]]] = []
        self.made, self.files, self.undressed = {b""}, 0, 0
        root.mkdir()

    def add(self, line: bytes) -> None:
        """Raises Damage, OSError."""
        with reading(f"a line of the list of files, {line[:200]!r}"):
            entry: dict[str, Any] = json.loads(line)
            path, kind = inside(entry, "path"), entry["type"]
            place, parent = self.root / os.fsdecode(path), path.rpartition(b"/")[0]
            target = text_of(entry, "target") if kind == "symlink" else inside(entry, "target", b"")
            needed = ("mode", "uid", "gid", "mtime_ns", *(("size", "offset") if kind in {"file", "hardlink"} else ()))
            if kind not in {"file", "folder", "symlink", "hardlink"} or any(type(entry[n]) is not int for n in needed):
                raise ValueError("of no known type, or without a number")
            if parent not in self.made and not self.reader.keep_going:
                raise ValueError("its folder is not in the list")
        self.make_folder(parent)
        if kind == "folder":
            self.make_folder(path)
            self.folders.append((place, entry))  # its rights are given when nothing more is written into it
        elif kind == "symlink":
            place.symlink_to(os.fsdecode(target))
        else:
            if kind == "file" or not self.link(target, place):
                self.write(place, entry)
            self.files += 1
            self.dress(place, entry)

    def make_folder(self, path: bytes) -> None:
        if path not in self.made:
            self.make_folder(path.rpartition(b"/")[0])  # with --keep-going, where its line is lost
            (self.root / os.fsdecode(path)).mkdir()
            self.made.add(path)

    def link(self, target: bytes, place: Path) -> bool:
        """A hard link to a file that was made here; False where there is none."""
        with contextlib.suppress(OSError):
            first = self.root / os.fsdecode(target)
            if target.rpartition(b"/")[0] in self.made and stat.S_ISREG(first.lstat().st_mode):
                os.link(first, place)
                return True
        return False

    def write(self, place: Path, entry: dict[str, Any]) -> None:
        with place.open("xb") as file:
            try:
                for block in self.reader.read(self.content, entry["offset"], entry["size"]):
                    file.write(block)
            except Damage as error:
                file.close()
                place.unlink()
                raise Damage(f"the file {place.relative_to(self.root)} is lost: {error}") from None

    def dress(self, place: Path, entry: dict[str, Any]) -> None:
        """Owner (as root only), rights, attributes and times, as far as this system has them."""
        try:
            if hasattr(os, "geteuid") and os.geteuid() == 0:
                try:
                    shutil.chown(place, entry.get("user") or entry["uid"], entry.get("group") or entry["gid"])
                except LookupError:  # no such names here
                    os.chown(place, entry["uid"], entry["gid"])
            place.chmod(entry["mode"] & 0o7777)
            for key, value in entry.get("xattrs", ()) if hasattr(os, "setxattr") else ():
                os.setxattr(place, unbase64(key), unbase64(value))
            os.utime(place, ns=(entry["mtime_ns"], entry["mtime_ns"]))
        except OSError as error:
            self.undressed += 1
            if self.undressed <= 10:
                note(f"{place}: owner, rights, attributes or times could not all be set: {error.strerror}")


def text_of(entry: dict[str, Any], key: str) -> bytes:
    return str(entry[key]).encode() if key in entry else unbase64(entry[f"{key}64"])


def inside(entry: dict[str, Any], key: str, default: bytes | None = None) -> bytes:
    """A path below the root; empty for the root itself. Raises ValueError where it leads elsewhere."""
    if default is not None and key not in entry and f"{key}64" not in entry:
        return default
    path = text_of(entry, key)
    bad = rb'[\\:*?"<>|\x00-\x1f]' if os.name == "nt" else rb"\x00"
    if path != b"." and (any(p in {b"", b".", b".."} for p in path.split(b"/")) or re.search(bad, path)):
        raise ValueError("a path that leads elsewhere or is not possible here")
    return b"" if path == b"." else path


def write_tree(reader: Reader, lines: Stream, content: Stream, files: int, path: Path) -> None:
    partial, before = path.with_name(f"{path.name}.incomplete"), len(troubles)
    tree, rest = Tree(reader, content, partial), b""
    for block in itertools.chain(reader.read(lines, salvage=reader.keep_going), [b"\n"]):
        *whole, rest = (rest + block).split(b"\n")
        for line in filter(None, whole):
            try:
                tree.add(line)
            except Damage as error:
                reader.bad(error)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}:
                    raise
                reader.bad(Damage(f"a file that cannot be written here: {error}"))
    for place, entry in reversed(tree.folders):
        tree.dress(place, entry)
    if tree.files != files:
        reader.bad(Damage(f"{tree.files} files came out of the vault; {files} went in"))
    finish(partial, path, f"{tree.files:>15,} files", whole=len(troubles) == before)


def new_folder(vault: Vault, to: Path) -> Path:
    """Raises Usage where something could be overwritten."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Usage(f"{to} is there and not an empty folder; nothing is ever overwritten: name a new one")
    if to.resolve().is_relative_to(vault.root.resolve()):
        raise Usage(f"{to} is inside the vault, where nothing is ever written: name a folder elsewhere")
    return to


def restore(vault: Vault, backup: Backup, args: argparse.Namespace) -> None:
    to = new_folder(vault, args.to)
    reader = Reader(vault, backup, keep_going=args.keep_going)
    name = args.source or (next(iter(reader.sources)) if len(reader.sources) == 1 else "")
    if name not in reader.sources:
        raise Usage(f"--source must be one of {', '.join(reader.sources)}")
    if reader.sources[name]["status"] != "complete":
        why = reader.sources[name].get("error", "nobody asked for it")
        raise Stop(f"{backup.id} does not have {name}: at that time it {reader.sources[name]['status']} ({why})")
    streams = {s.name: s for s in reader.streams if s.source == name}
    if unknown := set(args.stream or ()) - set(streams):
        raise Usage(f"there is no stream {', '.join(unknown)}; there is {', '.join(streams)}")
    print(show(f"{name} of {backup.id} ({backup.status}, {backup.proof})"))
    to.mkdir(parents=True, exist_ok=True)
    facts = reader.sources[name]["facts"]
    kind = None if args.stream or args.raw else facts.get("type")
    used: list[Stream] = []
    with reading(f"the description of {name} in {backup.id}"):
        if kind == "postgres":
            used = [streams[n] for n in facts["streams"] if re.fullmatch("pre-data|data-.*|post-data", n)]
        elif kind == "git":
            used = [streams["bundle-head"], streams["objects"]]
        elif kind in {"sqlite", "files"}:
            used = [streams[n] for n in (("database",) if kind == "sqlite" else ("tree", "content"))]
    if kind == "files":
        write_tree(reader, used[0], used[1], facts["files"], to / "files")
    elif kind == "git":
        write_bundle(reader, used[0], used[1], facts.get("format", "sha1"), to / "repository.bundle")
    elif used:
        write(reader, used, to / ("database.sql" if kind == "postgres" else "database.db"))
    for stream in streams.values():
        if stream not in used and stream.name in (args.stream or streams):
            safe = urllib.parse.quote(stream.name, safe="")
            write(reader, [stream], to / "streams" / (f"%2E{safe[1:]}" if safe[:1] == "." else safe))
    checked = (
        "pieces by their ids, streams by their digests" if blake3 else "packs by SHA-256 (blake3 is not installed)"
    )
    print(f"Checked: the manifest by its SHA-256, frames by their tags, sizes and lengths, {checked}.")


def list_backups(vault: Vault) -> None:
    backups = find_backups(vault)
    for b in backups:
        size, sources = f"{b.about.get('size', 0) / 1e6:,.1f} MB", ", ".join(b.about.get("sources", {}))
        print(show(f"{b.id}  {b.tier:8}{b.status:12}{size:>12}  {b.proof}  [{sources}]"))
        for name in b.about.get("portable", {}):
            print(show(f"    a copy that needs no key: {b.folder}{name}"))
        if b.problem:
            trouble(b.problem)
    print(f"{len(backups)} backups. " + ("Verified." if vault.writer else "Not verified, since no key was given."))


def show_backup(vault: Vault, backup: Backup, args: argparse.Namespace) -> None:
    reader = Reader(vault, backup, keep_going=args.keep_going)
    print(show(f"{backup.id}  {backup.tier}  {backup.status}  {backup.proof}"))
    for name, source in reader.sources.items():
        facts = source["facts"]
        print(show(f"\nsource {name}: {facts.get('type', '?')}, {source['status']} {source.get('error', '')}"))
        for key in ("database", "version", "bytes", "files", "folders", "refs", "objects"):
            if key in facts:
                print(show(f"    {key} {facts[key]}"))
        for table, known in facts.get("tables", {}).items():
            print(show(f"    table {table}: {known.get('rows', '?')} rows"))
        for stream in (s for s in reader.streams if s.source == name):
            print(show(f"    stream {stream.name}: {stream.size:,} bytes"))


# PostgreSQL's write-ahead log (section 11)

PART = re.compile(r"([0-9A-F]{8})/([0-9A-F]{24})/([0-9A-F]{16})-([0-9A-F]{16})")


def log_object(vault: Vault, name: str) -> tuple[dict[str, Any], bytes]:
    """Its head and its plain bytes. Raises Damage."""
    raw = vault.get(name)
    with reading(name):
        if raw[:4] != b"KWL1":
            raise ValueError("no log of version 1")
        (size,) = struct.unpack_from("<I", raw, 4)
        head = json.loads(vault.envelope(name, raw[8 : 8 + size]))
        (sealed,) = struct.unpack_from("<I", raw, 8 + size)
        at = 12 + size + sealed
        box, bound = vault.unseal("wal", name.encode(), raw[12 + size : at]), hashlib.sha256(raw[:at]).digest()
        length = int(head["size"]) if "file" in head else head["end"] - head["start"]
        plain = bytearray()
        for number, count in enumerate(head["frames"]):
            codec, sealed_frame = raw[at : at + 1], raw[at + 1 : at + count]
            frame = box.decrypt(number.to_bytes(12, "big"), sealed_frame, bound + codec)
            plain += unzstd(frame, min(head["frame"], length - len(plain))) if codec == b"\x01" else frame
            at += count
        if len(plain) != length or at != len(raw):
            raise ValueError("another length than announced")
        key = derive(vault.writer, vault.id, "piece")
        if blake3 and blake3.blake3(plain, key=key).hexdigest() != head["digest"]:
            raise ValueError("its digest does not match")
    return head, bytes(plain)


def write_log(vault: Vault, args: argparse.Namespace) -> None:
    """All segments of one cluster as files that PostgreSQL reads: filled up with zeros where the log ends."""
    if not vault.private:
        raise Key("this is a writer key, which can back up but not read data: use a reader key")
    base = vault.root / "wal" / args.source
    systems = sorted(path.name for path in base.glob("*") if path.name.isdecimal())
    system = args.system or (systems[0] if len(systems) == 1 else "")
    if not re.fullmatch(r"[a-z0-9_-]+/[a-z0-9_-]+", args.source) or not systems:
        known = sorted(path.relative_to(vault.root / "wal").as_posix() for path in (vault.root / "wal").glob("*/*"))
        raise Usage(f"there is no log of {args.source!r}; there is log of: {', '.join(known) or 'nothing'}")
    if system not in systems:
        raise Usage(f"--system must be one of {', '.join(systems)}: each is a cluster that this source once was")
    to = new_folder(vault, args.to)
    to.mkdir(parents=True, exist_ok=True)
    folder = f"wal/{args.source}/{system}/"
    segments: dict[str, list[tuple[int, int, str]]] = {}
    for path in sorted((base / system).glob("*/*/*")):
        name = path.relative_to(vault.root).as_posix()
        if found := PART.fullmatch(name.removeprefix(folder)):
            segments.setdefault(found[2], []).append((int(found[3], 16), int(found[4], 16), name))
    for path in sorted((base / system / "files").glob("*")):
        try:
            head, data = log_object(vault, f"{folder}files/{path.name}")
            if head.get("file") != path.name:
                raise Damage(f"{folder}files/{path.name} is another file than its name says")
            with (to / path.name).open("xb") as file:
                file.write(data)
        except Damage as error:
            keep_going(args, error)
    end: dict[str, int] = {}
    for segment, parts in sorted(segments.items()):
        write_segment(vault, args, to / segment, parts, end)
    for timeline, position in end.items():
        print(f"timeline {int(timeline, 16)}: up to {position >> 32:X}/{position & 0xFFFFFFFF:X}")
    print(f"{len(segments)} segments in {to}. In the restored cluster: restore_command = 'cp {to}/%f %p'")


def write_segment(
    vault: Vault, args: argparse.Namespace, path: Path, parts: list[tuple[int, int, str]], end: dict[str, int]
) -> None:
    size, start = 0, 0
    have: list[tuple[int, int]] = []
    with path.open("xb") as file:
        for low, high, name in sorted(parts, key=lambda p: (p[0], -p[1])):
            if any(a <= low and high <= b for a, b in have):  # a longer one has all of it
                continue
            try:
                head, data = log_object(vault, name)
            except Damage as error:
                keep_going(args, error)
                continue
            if (head["start"], head["end"]) != (low, high):
                keep_going(args, Damage(f"{name} holds other log than its name says"))
                continue
            size = head["segment_size"]
            start = low - low % size
            file.seek(low - start)
            file.write(data)
            have.append((low, high))
        file.truncate(size)
    at = start
    for low, high in sorted(have):
        if low > at:
            break
        at = max(at, high)
    timeline, last = path.name[:8], max((high for _, high in have), default=0)
    gap = end.get(timeline, start) != start or at != last
    if gap:
        shown = f"{min(at, end.get(timeline, at)):X}"
        note(
            f"GAP: log of timeline {int(timeline, 16)} is missing from position {shown} (hex) on, in or before {path.name}"
        )
    if have:
        end[timeline] = last


def keep_going(args: argparse.Namespace, error: Damage) -> None:
    if not args.keep_going:
        raise error
    trouble(error)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "recover.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    back = commands.add_parser("restore", parents=[key], help="bring a source of a backup into a new folder")
    back.add_argument("backup", metavar="BACKUP")
    back.add_argument("--source", metavar="NAME", help="`show` lists them")
    back.add_argument("--to", type=Path, required=True, metavar="NEW_FOLDER")
    back.add_argument("--stream", action="append", metavar="NAME", help="only this stream, as it is; repeatable")
    back.add_argument("--raw", action="store_true", help="all streams as they are, not put together")
    log = commands.add_parser("wal", parents=[key], help="bring PostgreSQL's write-ahead log into a new folder")
    log.add_argument("source", metavar="ENVIRONMENT/SOURCE")
    log.add_argument("--to", type=Path, required=True, metavar="NEW_FOLDER")
    log.add_argument("--system", metavar="NUMBER", help="the cluster, where there are several")
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
        elif args.command == "wal":
            write_log(vault, args)
        else:
            command = show_backup if args.command == "show" else restore
            command(vault, choose(vault, args.backup), args)
    except (Stop, OSError) as error:
        note(f"ERROR: {error}")
        if isinstance(error, Damage) and not args.keep_going:
            note("Try an older backup or another copy of the vault; or save what can be saved with --keep-going.")
        return error.code if isinstance(error, Stop) else 1
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    if troubles:
        note(f"{len(troubles)} damages were found; they are named above.")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
