"""A job's spec as dataclasses, and as the YAML that the server checks.

The dataclasses have the keys of the YAML; what is left None is left out, and the server fills in its
defaults. What is wrong is found by the server, for every client the same: errors of a spec that was
not given as text name the field, as `features[2].clip`."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from .errors import InvalidError, Problem, problems_of

Optimizer: TypeAlias = str | Mapping[str, Mapping[str, Any] | None]
"""`"adam"`, or a name with parameters: `{"adam": {"lr": 0.001}}`."""


@dataclass
class Stream:
    """What a job reads, and from where."""

    topic: str
    from_: str | None = None
    """earliest (the default), latest, or an RFC 3339 time"""
    offsets: Sequence[int] | None = None
    """One per partition; wins over from_."""
    kafka: Mapping[str, Any] | None = None


@dataclass
class Label:
    """What the model predicts."""

    column: str
    type: str | None = None
    """binary (the default), regression or multiclass"""
    positive: Sequence[Any] | Any = None
    negative: Sequence[Any] | Any = None
    at_least: float | None = None
    classes: Sequence[Any] | None = None
    """multiclass: in the order of the predictions."""


@dataclass
class Time:
    """The event time; without it an example's time is its arrival."""

    column: str
    max_out_of_order: str | None = None
    """a duration such as "5s" """


@dataclass
class Feature:
    """One input of the model. Without a transform a number is used as it is, and text is hashed.
    A transform without parameters is `{}`."""

    column: str | None = None
    name: str | None = None
    impute: float | None = None
    clip: tuple[float, float] | None = None
    log1p: bool | None = None
    standardize: Mapping[str, Any] | None = None
    bucketize: Mapping[str, Any] | None = None
    hash: Mapping[str, Any] | None = None
    vocabulary: Mapping[str, Any] | None = None
    multi_hot: Mapping[str, Any] | None = None
    cross: Sequence[str] | None = None


@dataclass
class Architecture:
    """What computes a prediction."""

    kind: str
    """linear, logistic, softmax, fm, mlp, wide_deep, deepfm, dlrm, dcn or graph"""
    file: str | None = None
    """graph: what tidemill.keras.export wrote"""
    dim: int | None = None
    hidden: Sequence[int] | None = None
    bottom: Sequence[int] | None = None
    cross_layers: int | None = None
    rank: int | None = None
    layer_norm: bool | None = None
    dropout: float | None = None
    precision: str | None = None
    """float32 or bfloat16"""
    loss: str | None = None
    huber_delta: float | None = None
    init_scale: float | None = None


@dataclass
class Optimizers:
    """How gradients become parameters."""

    sparse: Optimizer | None = None
    dense: Optimizer | None = None
    tables: Mapping[str, Optimizer] | None = None
    clip_norm: float | None = None
    average: Mapping[str, float] | None = None


@dataclass
class Train:
    """How the job is run."""

    batch: int | None = None
    linger: str | None = None
    reduction: str | None = None
    """`mean` (default) or `sum` of a batch's losses"""
    staleness: int | None = None
    hot_rows: int | None = None
    """rows that a worker may use again within the staleness"""
    hot_batches: int | None = None
    snapshot: Mapping[str, str] | None = None
    """`{"every": "500 rows"}` or `{"every": "2s"}`"""
    max_rows: int | None = None
    max_bad_rows: int | str | None = None
    parallelism: int | None = None
    ps: int | None = None
    until_end: bool | None = None


@dataclass
class Gate:
    """What a candidate has to prove."""

    mode: str | None = None
    prove: str | None = None
    margin: float | None = None
    alpha: float | None = None
    clip: float | None = None
    min_examples: int | None = None
    max_examples: int | None = None


@dataclass
class Serve:
    """How the model is served."""

    max_batch: int | None = None
    keep: int | None = None


@dataclass
class JobSpec:
    """A job."""

    model: str
    stream: Stream
    label: Label
    features: Sequence[Feature]
    architecture: Architecture
    engine: str | None = None
    """native (the default) or tensorflow, which graphs need"""
    time: Time | None = None
    weight: str | None = None
    optimizer: Optimizers | None = None
    tables: Mapping[str, Mapping[str, Any]] | None = None
    """which rows tables have, by name: `{"embeddings": {"admit": {"after": 3}}}`"""
    train: Train | None = None
    gate: Gate | None = None
    serve: Serve | None = None
    seed: int | None = None
    shards: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as its YAML has it, without what is None."""
        out: dict[str, Any] = bare(self)
        return out


def bare(v: Any) -> Any:
    if dataclasses.is_dataclass(v) and not isinstance(v, type):
        pairs = ((f.name.rstrip("_"), getattr(v, f.name)) for f in dataclasses.fields(v))
        return {k: bare(x) for k, x in pairs if x is not None}
    if isinstance(v, Mapping):
        return {k: bare(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [bare(x) for x in v]
    return v


@dataclass
class Document:
    """A spec as text, and which field each of its lines is about."""

    text: str
    file: str
    fields: list[str] = field(default_factory=list)
    """By line, from 0; empty for a text that somebody wrote."""

    def explain(self, e: InvalidError) -> InvalidError:
        """Returns the server's error with its problems, and with fields for places."""
        problems = problems_of(str(e), self.file)
        if self.fields:
            problems = [Problem(p.text, self.fields[p.line - 1] if 0 < p.line <= len(self.fields) else "") for p in problems]
            return InvalidError("\n".join(str(p) for p in problems), problems)
        return InvalidError(str(e), problems)


Spec: TypeAlias = JobSpec | Mapping[str, Any] | str


def document(spec: Spec, file: str = "spec") -> Document:
    """Returns a spec as a document. Text is YAML, and is sent as it is."""
    if isinstance(spec, str):
        return Document(spec, file)
    if isinstance(spec, JobSpec):
        spec = spec.to_dict()
    if not isinstance(spec, Mapping):
        raise InvalidError(f"{type(spec).__name__} is no spec (give a JobSpec, a dict, or YAML)")
    d = Document("", file)
    lines: list[str] = []
    write(lines, d.fields, spec, "", 0)
    d.text = "\n".join(lines) + "\n"
    return d


KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def write(lines: list[str], fields: list[str], v: Any, path: str, depth: int) -> None:
    """Writes a mapping or a list in block style, a value on each line, so that a line is a field."""
    pad = "  " * depth
    if isinstance(v, Mapping):
        items: list[tuple[str, str, Any]] = []
        for k, x in v.items():
            if not isinstance(k, str):
                raise InvalidError(f"{path or 'the spec'}: key {k!r} is not text", [Problem(f"key {k!r} is not text", path)])
            key = k if KEY.fullmatch(k) else quoted(k)
            items.append((f"{pad}{key}:", f"{path}.{k}" if path else k, x))
    else:
        items = [(f"{pad}-", f"{path}[{i}]", x) for i, x in enumerate(v)]
    for head, at, value in items:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, (Mapping, list, tuple)):
            if len(value) == 0:
                lines.append(f"{head} {'{}' if isinstance(value, Mapping) else '[]'}")
                fields.append(at)
                continue
            lines.append(head)
            fields.append(at)
            write(lines, fields, value, at, depth + 1)
        else:
            lines.append(f"{head} {scalar(value, at)}")
            fields.append(at)


BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


def quoted(text: str) -> str:
    """Quotes as JSON does, but for characters that YAML takes for the end of a line."""
    return BREAKS.sub(lambda m: f"\\u{ord(m[0]):04x}", json.dumps(text, ensure_ascii=False))


def scalar(v: Any, path: str) -> str:
    if isinstance(v, np.generic):
        v = v.item()
    if v is None:
        return "null"
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, int):
        return str(v)
    if isinstance(v, float):
        if not math.isfinite(v):
            raise InvalidError(f"{path}: {v} is not a finite number", [Problem(f"{v} is not a finite number", path)])
        return repr(v)
    if isinstance(v, str):
        return quoted(v)
    raise InvalidError(
        f"{path}: a {type(v).__name__} is no value of a spec (give text, numbers, lists and dicts)",
        [Problem(f"a {type(v).__name__} is no value of a spec", path)],
    )
