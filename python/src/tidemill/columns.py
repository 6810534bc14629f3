"""Rows as people have them, as Arrow tables: pandas, polars, pyarrow, numpy, dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import InvalidError

Rows = Any
"""A pyarrow Table or RecordBatch, a pandas or polars DataFrame (or whatever else offers
`__arrow_c_stream__`), a mapping of columns, or a sequence of rows that are mappings."""

ACCEPTED = "pandas, polars or pyarrow tables, a dict of columns, or a list of dicts"


def to_table(data: Rows, names: Sequence[str] = ()) -> pa.Table:
    """Returns rows as a table of plain types: no dictionaries, no views, no 64-bit offsets, no
    metadata. A two-dimensional numpy array gets the column names `names`, one for each of its
    columns."""
    try:
        t = convert(data, names)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as e:
        raise InvalidError(f"the rows cannot be made a table: {e}") from e
    seen: set[str] = set()
    for name in t.column_names:
        if name == "":
            raise InvalidError("a column has no name (name it)")
        if name in seen:
            raise InvalidError(f"column {name!r} is there twice (rename one)")
        seen.add(name)
    schema = pa.schema([pa.field(f.name, plain(f.name, f.type), f.nullable) for f in t.schema])
    try:
        return t.replace_schema_metadata(None).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise InvalidError(f"the rows cannot be made a table of plain types: {e}") from e


def convert(data: Rows, names: Sequence[str]) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, Mapping):
        return from_columns(data)
    if isinstance(data, np.ndarray):
        return from_array(data, names)
    kind = type(data).__module__.partition(".")[0]
    if kind == "pandas":
        return from_pandas(data)
    if kind == "polars" and hasattr(data, "to_arrow") and hasattr(data, "columns"):
        return data.to_arrow()
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return from_rows(data)
    raise InvalidError(f"{type(data).__name__} is no table (give {ACCEPTED})")


def from_columns(data: Mapping[Any, Any]) -> pa.Table:
    arrays = {}
    for name, values in data.items():
        if not isinstance(name, str):
            raise InvalidError(f"column name {name!r} is not text")
        if isinstance(values, (str, bytes)) or not (hasattr(values, "__len__") or hasattr(values, "__iter__")):
            raise InvalidError(f"column {name!r} is one value (give a list, one value for each row)")
        try:
            arrays[name] = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as e:
            raise InvalidError(f"column {name!r} holds values of different types: {e}") from e
    sizes = {name: len(a) for name, a in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidError("columns of different lengths: " + ", ".join(f"{n!r} has {k}" for n, k in sizes.items()))
    return pa.table(arrays)


def from_rows(data: Sequence[Any]) -> pa.Table:
    names: dict[str, None] = {}
    for i, row in enumerate(data):
        if not isinstance(row, Mapping):
            raise InvalidError(f"row {i} is a {type(row).__name__}, not a dict (give {ACCEPTED})")
        names.update(dict.fromkeys(row))
    return from_columns({n: [row.get(n) for row in data] for n in names})


def from_array(data: np.ndarray[Any, Any], names: Sequence[str]) -> pa.Table:
    if data.dtype.names:
        return from_columns({n: data[n] for n in data.dtype.names})
    if data.ndim != 2:
        raise InvalidError(f"an array of {data.ndim} dimensions is no table (give one of [rows, columns])")
    if not names:
        raise InvalidError(f"an array has no column names (give {ACCEPTED})")
    if data.shape[1] != len(names):
        raise InvalidError(f"the array has {data.shape[1]} columns where {len(names)} are wanted: {', '.join(names)}")
    return from_columns({n: np.ascontiguousarray(data[:, i]) for i, n in enumerate(names)})


def from_pandas(data: Any) -> pa.Table:
    if not hasattr(data, "columns"):
        raise InvalidError("a Series is no table (give a DataFrame)")
    for name in data.columns:
        if not isinstance(name, str):
            raise InvalidError(f"column name {name!r} is not text (rename it: df.columns = …)")
    if not data.columns.is_unique:
        raise InvalidError(f"column {data.columns[data.columns.duplicated()][0]!r} is there twice (rename one)")
    return pa.Table.from_pandas(data, preserve_index=False)


def plain(column: str, t: pa.DataType) -> pa.DataType:
    """Returns the plain type with the same values as t."""
    if pa.types.is_dictionary(t):
        return plain(column, t.value_type)
    if pa.types.is_large_string(t) or t == pa.string_view():
        return pa.string()
    if pa.types.is_large_binary(t) or t == pa.binary_view():
        return pa.binary()
    if pa.types.is_large_list(t) or pa.types.is_list(t):
        return pa.list_(pa.field("item", plain(column, t.value_type)))
    if pa.types.is_decimal(t) or pa.types.is_struct(t) or pa.types.is_map(t) or pa.types.is_union(t):
        raise InvalidError(f"column {column!r} has type {t}, which is no feature or label (cast it, or leave it out)")
    return t


def fit(table: pa.Table, schema: pa.Schema, topic: str) -> pa.Table:
    """Returns the table with the types that `schema` has for its columns. Numbers and text become
    another type where no value changes by that; else the column is named."""
    fields, columns = [], []
    for f, c in zip(table.schema, table.columns, strict=True):
        at = schema.get_field_index(f.name)
        want = schema.field(at).type if at >= 0 else f.type
        if f.type != want:
            c = recast(f.name, c, want, topic)
        fields.append(pa.field(f.name, want, f.nullable))
        columns.append(c)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def recast(name: str, column: Any, want: pa.DataType, topic: str) -> Any:
    have = column.type
    wrong = f"column {name!r} is {want} in topic {topic!r} and {have} here"
    numeric = pa.types.is_integer(have) or pa.types.is_floating(have)
    to_number = pa.types.is_integer(want) or pa.types.is_floating(want)
    whole = pa.types.is_integer(want) and pa.types.is_floating(have)
    moments = pa.types.is_timestamp(have) and pa.types.is_timestamp(want)
    if not (pa.types.is_null(have) or (numeric and to_number) or moments or same_kind(have, want)):
        raise InvalidError(f"{wrong} (cast it, or use another column name)")
    try:
        out = column.cast(want, safe=True)
        if pa.types.is_floating(want) and numeric and not whole:
            # Arrow rounds a number to a narrower float without a word.
            back = out.cast(have, safe=True)
            same = back.equals(column) or all(a == b or a != a for a, b in zip(back.to_pylist(), column.to_pylist(), strict=True))
            if not same:
                raise InvalidError(f"{wrong}, and not every value can be that (cast it, to say that it may be rounded)")
    except pa.ArrowInvalid as e:
        raise InvalidError(f"{wrong}: {e} (cast it, or use another column name)") from e
    return out


def same_kind(have: pa.DataType, want: pa.DataType) -> bool:
    def texts(t: pa.DataType) -> bool:
        return bool(pa.types.is_string(t) or pa.types.is_large_string(t))

    def blobs(t: pa.DataType) -> bool:
        return bool(pa.types.is_binary(t) or pa.types.is_large_binary(t))

    def lists(t: pa.DataType) -> bool:
        return bool(pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t))

    return (texts(have) and texts(want)) or (blobs(have) and blobs(want)) or (lists(have) and lists(want))
