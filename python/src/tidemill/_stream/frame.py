"""One message of a topic: docs/format/stream-message.md."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import xxhash

from ..errors import CorruptError

HEADER = struct.Struct("<2sHIQqQQ")
MAGIC = b"T\x01"
MAX_KEY = 1024  # bytes


@dataclass(frozen=True)
class Frame:
    """A message but for its rows, which stay encoded in `body`."""

    first: int  # offset of the first row
    rows: int  # 1 to 2^32-1
    fingerprint: int  # of the schema that the body is encoded with
    mark: int  # random; by which an append knows its own message again
    key: str  # "" or PREFIX/NUMBER
    body: bytes

    @property
    def next(self) -> int:
        """The offset after the last row."""
        return self.first + self.rows

    def at(self, first: int) -> Frame:
        return replace(self, first=first)

    def seal(self) -> bytes:
        """Returns the message, with its checksum."""
        key = self.key.encode()
        tail = key + b"\0" * (-len(key) & 7) + self.body
        head = bytearray(HEADER.pack(MAGIC, len(key), self.rows, 0, self.first, self.fingerprint, self.mark))
        struct.pack_into("<Q", head, 8, checksum(bytes(head[:8]), bytes(head[16:]) + tail))
        return bytes(head) + tail


def checksum(seed: bytes, rest: bytes) -> int:
    return xxhash.xxh3_64_intdigest(rest, seed=int.from_bytes(seed, "little"))


def parse(data: bytes) -> Frame:
    """Reads what `seal` wrote. Anything else is a CorruptError."""
    if len(data) < HEADER.size:
        raise CorruptError(f"corrupt: message has {len(data)} bytes, fewer than its header")
    magic, k, rows, check, first, fingerprint, mark = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptError(f"corrupt: message is of kind {data[0]:#x} version {data[1]}")
    if checksum(data[:8], data[16:]) != check:
        raise CorruptError("corrupt: message does not match its checksum")
    end = HEADER.size + k + (-k & 7)
    if k > MAX_KEY or end > len(data):
        raise CorruptError(f"corrupt: message has a key of {k} bytes")
    if rows == 0 or not 0 <= first <= 1 << 62:
        raise CorruptError(f"corrupt: message has {rows} rows from offset {first}")
    try:
        key = data[HEADER.size : HEADER.size + k].decode()
    except UnicodeDecodeError as e:
        raise CorruptError("corrupt: message has a key that is not text") from e
    if key:
        parse_key(key)
    return Frame(first, rows, fingerprint, mark, key, data[end:])


def parse_key(key: str) -> tuple[str, int]:
    """Splits PREFIX/NUMBER."""
    prefix, slash, digits = key.rpartition("/")
    if not slash or not (digits.isascii() and digits.isdigit()) or str(int(digits)) != digits:
        raise CorruptError(f"corrupt: append key {key!r} does not end in a decimal number")
    return prefix, int(digits)
