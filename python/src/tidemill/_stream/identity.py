"""Which input is which: a hash of a table's values, and which partition a key's rows go to."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ..errors import InvalidError
from .schema import quote, type_name

WINDOW = 65_536  # rows that are hashed at a time, however the table is cut into chunks


def of_table(table: pa.Table) -> str:
    """Returns a hash of the table's names, types and values: equal tables have equal ones, whatever
    their chunks, offsets and the bytes below nulls."""
    h = xxhash.xxh3_128()
    for f in table.schema:
        h.update(f"{quote(f.name)} {type_name(f.name, f.type) if not pa.types.is_null(f.type) else 'null'}\n".encode())
    for at in range(0, len(table), WINDOW):
        for column in table.slice(at, WINDOW).columns:
            feed(h, pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type))
    h.update(struct.pack("<q", len(table)))
    return str(h.hexdigest())


def feed(h: Any, a: Any) -> None:
    """Adds an array's values."""
    h.update(struct.pack("<qq", len(a), a.null_count))
    if a.null_count:
        h.update(np.asarray(pc.is_valid(a).cast(pa.uint8())).tobytes())
    t = a.type
    if pa.types.is_null(t) or len(a) == 0:
        return
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        h.update(np.asarray(pc.fill_null(pc.list_value_length(a), 0).cast(pa.int64())).tobytes())
        feed(h, a.flatten())
        return
    if pa.types.is_string(t) or pa.types.is_binary(t) or pa.types.is_large_string(t) or pa.types.is_large_binary(t):
        h.update(np.asarray(pc.fill_null(pc.binary_length(a), 0).cast(pa.int64())).tobytes())
        wide = pa.types.is_large_string(t) or pa.types.is_large_binary(t)
        kept = a.drop_null().cast(pa.large_binary() if wide else pa.binary())
        offsets = np.frombuffer(kept.buffers()[1], dtype=np.int64 if wide else np.int32)[kept.offset :][: len(kept) + 1]
        if len(kept) and kept.buffers()[2] is not None:
            h.update(memoryview(kept.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
        return
    kept = a.drop_null()
    if pa.types.is_boolean(t):
        kept = kept.cast(pa.uint8())
    elif pa.types.is_temporal(t):
        kept = kept.cast(pa.int32() if t.bit_width == 32 else pa.int64())
    h.update(np.ascontiguousarray(kept.to_numpy(zero_copy_only=False)).tobytes())


def of_file(path: Path, name: str, key_column: str | None) -> str:
    """Returns the identity that the command `tidemill produce` gives a file of a format."""
    h = xxhash.xxh3_128()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return f"{name}:{h.hexdigest()}" + by(key_column)


def by(key_column: str | None) -> str:
    """Returns what a key column adds to an identity: it decides where rows go."""
    return "" if key_column is None else f":by={xxhash.xxh3_64_intdigest(key_column.encode()):016x}"


def key_hashes(column: str, values: Any) -> npt.NDArray[np.uint64]:
    """Hashes values by their meaning, not their width: 7 goes where 7 goes. Nulls go together."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    t = values.type
    if pa.types.is_string(t) or pa.types.is_binary(t) or pa.types.is_large_string(t) or pa.types.is_large_binary(t):
        distinct = values.dictionary_encode()
        of = [xxhash.xxh3_64_intdigest(v.encode() if isinstance(v, str) else v) for v in distinct.dictionary.to_pylist()]
    elif (
        pa.types.is_integer(t)
        or pa.types.is_floating(t)
        or pa.types.is_boolean(t)
        or pa.types.is_timestamp(t)
        or pa.types.is_date32(t)
    ):
        if pa.types.is_floating(t):
            if t == pa.float16():
                raise InvalidError(f"key column {column!r} has type {t} (use one of numbers, text or times)")
            pattern, plain = "<d", values
        elif pa.types.is_timestamp(t) or pa.types.is_date32(t):
            pattern, plain = "<q", values.cast(pa.int32() if pa.types.is_date32(t) else pa.int64()).cast(pa.int64())
        else:
            pattern, plain = ("<Q" if t == pa.uint64() else "<q"), values
        distinct = plain.dictionary_encode()
        numbers = distinct.dictionary.to_pylist()
        of = [xxhash.xxh3_64_intdigest(struct.pack(pattern, v)) for v in numbers]
    else:
        raise InvalidError(f"key column {column!r} has type {t} (use one of numbers, text or times)")
    table = np.array([*of, 0], dtype=np.uint64)
    index = np.asarray(pc.fill_null(distinct.indices.cast(pa.int64()), len(of)))
    out: npt.NDArray[np.uint64] = table[index]
    return out
