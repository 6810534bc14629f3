from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tidemill
from tidemill._stream import identity
from tidemill.columns import fit, to_table

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

COLUMNS: dict[str, Any] = {"user": ["a", "b", None], "n": [1, 2, 3], "x": [0.5, 1.5, 2.5], "on": [True, False, True]}


def as_rows() -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]


@pytest.mark.parametrize(
    "data",
    [
        COLUMNS,
        pa.table(COLUMNS),
        pa.table(COLUMNS).to_batches()[0],
        pd.DataFrame(COLUMNS),
        pl.DataFrame(COLUMNS),
        as_rows(),
        pa.table({**COLUMNS, "user": pa.array(COLUMNS["user"]).dictionary_encode()}),
        pa.table({**COLUMNS, "user": pa.array(COLUMNS["user"], pa.large_string())}),
    ],
)
def test_all_kinds_of_tables_are_one(data: Any) -> None:
    t = to_table(data)
    assert t.to_pydict() == COLUMNS
    assert [str(f.type) for f in t.schema] == ["string", "int64", "double", "bool"]
    assert identity.of_table(t) == identity.of_table(to_table(COLUMNS))


@pytest.mark.parametrize("seed", range(30))
def test_a_table_is_known_again_however_it_is_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 300))
    nulls = rng.random(n) < 0.2
    t = pa.table(
        {
            "s": pa.array([None if z else "x" * int(rng.integers(0, 5)) for z in nulls]),
            "f": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.2),
            "b": pa.array([bool(v) for v in rng.integers(0, 2, n)]),
            "l": pa.array([None if z else list(range(int(rng.integers(0, 3)))) for z in nulls], pa.list_(pa.int64())),
            "t": pa.array(rng.integers(0, 10**9, n), pa.timestamp("us", "UTC")),
        }
    )
    cuts = sorted({0, n, *rng.integers(0, n, 3).tolist()})
    pieces = [t.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    assert identity.of_table(pa.concat_tables(pieces)) == identity.of_table(t)
    # What lies below nulls does not count.
    other = t.set_column(
        1,
        "f",
        pa.array(np.where(np.asarray(t["f"].is_null()), 7.0, t["f"].fill_null(0).to_numpy()), mask=np.asarray(t["f"].is_null())),
    )
    assert identity.of_table(other) == identity.of_table(t)
    # One value does.
    row = int(rng.integers(0, n))
    flags = t["b"].to_pylist()
    flags[row] = not flags[row]
    assert identity.of_table(t.set_column(2, "b", pa.array(flags))) != identity.of_table(t)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (3, "int is no table"),
        ({"a": [1], "b": [1, 2]}, "different lengths"),
        ({"a": "text"}, "column 'a' is one value"),
        ({"a": [1, "x"]}, "column 'a' holds values of different types"),
        ({1: [1]}, "column name 1 is not text"),
        ([{"a": 1}, 2], "row 1 is a int"),
        (np.zeros(3), "1 dimensions"),
        (np.zeros((3, 2)), "no column names"),
        (pd.Series([1]), "Series is no table"),
        (pd.DataFrame(np.zeros((1, 2)), columns=["a", "a"]), "column .a. is there twice"),
        (pd.DataFrame(np.zeros((1, 2))), "column name 0 is not text"),
        (pa.table({"a": pa.array([{"x": 1}])}), "column 'a' has type struct"),
    ],
)
def test_what_is_no_table_is_refused_with_a_reason(data: Any, text: str) -> None:
    with pytest.raises(tidemill.InvalidError, match=text):
        to_table(data)


def test_columns_get_the_types_of_the_topic_where_no_value_changes() -> None:
    topic = pa.schema([("a", pa.float64()), ("b", pa.int32()), ("c", pa.float32()), ("d", pa.string())])
    t = to_table({"a": [1, 2], "b": [1.0, 2.0], "c": [0.5, float("nan")], "d": [None, None], "e": [1, 1]})
    got = fit(t, topic, "t").schema
    assert [f.type for f in got] == [*(f.type for f in topic), pa.int64()]


@pytest.mark.parametrize(
    ("name", "values", "have"),
    [
        ("a", [2**53 + 1], "int64"),
        ("b", [0.5], "double"),
        ("b", [2**40], "int64"),
        ("c", [0.1], "double"),
        ("d", [1], "int64"),
        ("a", ["1"], "string"),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(name: str, values: list[Any], have: str) -> None:
    topic = pa.schema([("a", pa.float64()), ("b", pa.int32()), ("c", pa.float32()), ("d", pa.string())])
    with pytest.raises(tidemill.InvalidError, match=rf"column '{name}' is .* in topic 't' and {have} here"):
        fit(to_table({name: values}), topic, "t")
