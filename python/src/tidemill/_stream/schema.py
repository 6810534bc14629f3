"""A topic's schema: its fingerprint, and which rows fit it."""

from __future__ import annotations

import difflib

import pyarrow as pa
import xxhash

from ..errors import CorruptError, InvalidError

MAX_COLUMNS = 4096

NAMES = {
    pa.bool_(): "bool",
    pa.int8(): "int8",
    pa.int16(): "int16",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.uint8(): "uint8",
    pa.uint16(): "uint16",
    pa.uint32(): "uint32",
    pa.uint64(): "uint64",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): "utf8",
    pa.large_string(): "large_utf8",
    pa.binary(): "binary",
    pa.large_binary(): "large_binary",
    pa.date32(): "date32",
    pa.date64(): "date64",
}


def type_name(column: str, t: pa.DataType) -> str:
    """Returns the type as the fingerprint writes it. A type that topics are not made with here is
    an InvalidError that names the column."""
    name = NAMES.get(t)
    if name is not None:
        return name
    if pa.types.is_timestamp(t):
        return f"timestamp[{t.unit}, tz={t.tz}]" if t.tz else f"timestamp[{t.unit}]"
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        of = "large_list" if pa.types.is_large_list(t) else "list"
        size = ""
        if pa.types.is_fixed_size_list(t):
            of, size = "fixed_size_list", f"[{t.list_size}]"
        nullable = ", nullable" if t.value_field.nullable else ""
        return f"{of}<{t.value_field.name}: {type_name(column, t.value_type)}{nullable}>{size}"
    if pa.types.is_null(t):
        raise InvalidError(f"column {column!r} holds no value at all, so its type is unknown (cast it, or leave it out)")
    raise InvalidError(f"column {column!r} has type {t}, which streams do not carry (cast it to a plain type, such as string)")


def quote(s: str) -> str:
    """Quotes as Go does, which fingerprints are made of."""
    short = {
        '"': '\\"',
        "\\": "\\\\",
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\v": "\\v",
    }
    out = []
    for ch in s:
        code = ord(ch)
        if ch in short:
            out.append(short[ch])
        elif ch.isprintable():
            out.append(ch)
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\x{code:02x}")
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def fingerprint(schema: pa.Schema) -> int:
    """Hashes names, types and nullability, in order. It is never 0."""
    text = "".join(f"{quote(f.name)} {type_name(f.name, f.type)} {'true' if f.nullable else 'false'}\n" for f in schema)
    return max(xxhash.xxh3_64_intdigest(text.encode()), 1)


def encode(schema: pa.Schema) -> bytes:
    """Returns the schema as one Arrow IPC message."""
    return bytes(bare(schema).serialize())


def decode(data: bytes) -> pa.Schema:
    try:
        return bare(pa.ipc.read_schema(pa.py_buffer(data)))
    except (pa.ArrowInvalid, OSError) as e:
        raise CorruptError(f"corrupt: schema: {e}") from e


def bare(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(f.name, f.type, f.nullable) for f in schema])


def check(schema: pa.Schema) -> None:
    """Refuses what a topic cannot be made with."""
    if len(schema) == 0:
        raise InvalidError("the rows have no columns (name at least one)")
    if len(schema) > MAX_COLUMNS:
        raise InvalidError(f"the rows have {len(schema)} columns, more than {MAX_COLUMNS} (put wide features into list columns)")
    for f in schema:
        type_name(f.name, f.type)


def grown(topic: pa.Schema, rows: pa.Schema) -> pa.Schema:
    """Returns the topic's schema with the columns that it lacks of rows, at its end and nullable."""
    have = set(topic.names)
    new = [pa.field(f.name, f.type) for f in rows if f.name not in have]
    return pa.schema([*topic, *new]) if new else topic


def align(table: pa.Table, schema: pa.Schema, topic: str) -> pa.Table:
    """Returns the table with the topic's columns, in its order, and null where it has none. The
    types are the topic's already."""
    columns = []
    for f in schema:
        at = table.schema.get_field_index(f.name)
        if at < 0 and not f.nullable:
            near = difflib.get_close_matches(f.name, table.column_names, 1)
            hint = f"; is it {near[0]!r}?" if near else ""
            raise InvalidError(f"column {f.name!r} of topic {topic!r} is missing and not nullable (give it{hint})")
        column = table.column(at) if at >= 0 else pa.nulls(len(table), f.type)
        if not f.nullable and column.null_count:
            raise InvalidError(
                f"column {f.name!r} is not nullable and {column.null_count} of {len(table)} rows have none (fill it)"
            )
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
