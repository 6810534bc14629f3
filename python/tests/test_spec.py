from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, spec

import tidemill
from tidemill.errors import problems_of
from tidemill.spec import document


def test_each_line_is_a_field() -> None:
    d = document(spec("m", "t"))
    lines = d.text.splitlines()
    assert len(lines) == len(d.fields)
    assert lines[0] == 'model: "m"'
    at = next(i for i, line in enumerate(lines) if "uniform" in line)
    assert d.fields[at] == "features[1].bucketize.uniform"
    assert "from" not in d.text


def test_what_is_none_is_left_out_and_what_is_false_is_not() -> None:
    s = spec("m", "t")
    s.train = tidemill.Train(until_end=False)
    s.stream.from_ = "latest"
    got = s.to_dict()
    assert got["train"] == {"until_end": False}
    assert got["stream"] == {"topic": "t", "from": "latest"}
    assert "seed" not in got


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(3), "3"),
        (np.float32(0.5), "0.5"),
        (True, "true"),
        (None, "null"),
        ("on", '"on"'),
        ("a\u2028b", '"a\\u2028b"'),
        ([], "[]"),
        ({}, "{}"),
        ("😀", '"😀"'),
    ],
)
def test_values(value: Any, text: str) -> None:
    assert document({"a": value}).text == f"a: {text}\n"


@pytest.mark.parametrize(
    ("value", "text"), [(float("nan"), "nan is not a finite number"), (object(), "a object is no value of a spec")]
)
def test_what_is_no_value_names_its_field(value: Any, text: str) -> None:
    with pytest.raises(tidemill.InvalidError, match=f"a\\[1\\].b: {text}") as e:
        document({"a": [1, {"b": value}]})
    assert e.value.problems[0].field == "a[1].b"


def test_problems_have_their_places() -> None:
    text = "spec.yaml:3:5: one (do this)\nspec.yaml:4:1: two\nmore of two\nspec.yaml: three"
    got = problems_of(text, "spec.yaml")
    assert [(p.line, p.column) for p in got] == [(3, 5), (4, 1)]
    assert got[0].text == "one (do this)"
    assert got[1].text == "two\nmore of two\nspec.yaml: three"


@pytest.mark.parametrize(
    ("go", "python"),
    [
        ("Spec", tidemill.JobSpec),
        ("StreamSpec", tidemill.Stream),
        ("LabelSpec", tidemill.Label),
        ("TimeSpec", tidemill.Time),
        ("FeatureSpec", tidemill.Feature),
        ("Architecture", tidemill.Architecture),
        ("OptimizerSpec", tidemill.Optimizers),
        ("TrainSpec", tidemill.Train),
        ("GateSpec", tidemill.Gate),
        ("ServeSpec", tidemill.Serve),
    ],
)
def test_the_dataclasses_have_the_keys_of_a_spec(go: str, python: type) -> None:
    source = (REPOSITORY / "model.go").read_text()
    body = re.search(rf"^type {go} struct {{\n(.*?)^}}", source, re.S | re.M)
    assert body is not None
    keys = set(re.findall(r'yaml:"([a-z0-9_]+)', body[1])) | ({"snapshot"} if go == "TrainSpec" else set())
    assert {f.name.rstrip("_") for f in dataclasses.fields(python)} == keys
