"""From a snapshot back into a Keras model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from .._ids import first_row, id_of
from ..errors import InvalidError
from ..snapshot import Snapshot
from ._model import Features, init, read, refuse
from ._trace import Tracer, find


def load_weights(
    model: Any,
    snapshot: Snapshot,
    values: Mapping[str, Sequence[Any]] | None = None,
    *,
    features: Features | None = None,
) -> None:
    """Gives an exported model the weights of a snapshot: its variables, its moving statistics, and rows of its embeddings.

    `values` says, by the name of an input, which value of the feature each id of the model stands for: `{"user": user_ids}`
    makes row i of the embedding that `user` is looked up in the row of `user_ids[i]`. Values are whole numbers or text, of
    features with `hash` or without a transform; None leaves a row as it is. A value that was never trained gets the row that
    it begins with.
    `features` is as in `export`. Raises InvalidError where the snapshot is not of such a model."""
    made = read(model, features, None, None, None)
    tracer = Tracer(made)
    find(tracer)
    if snapshot.averages:
        raise InvalidError("the snapshot has averaged weights (load one of a job without optimizer.average)")
    assigned: list[tuple[Any, Any]] = []
    for v in [*made.trained, *(v for _, v in tracer.moving)]:
        x = snapshot.weights.get(v.path)
        if x is None or x.shape != tuple(v.shape):
            has = "no tensor" if x is None else f"shape {x.shape} of"
            raise refuse(f"the snapshot has {has} {v.path!r}, and the model {tuple(v.shape)}", "give the model that was exported")
        assigned.append((v, x))
    for name, given in (values or {}).items():
        at = next((i for i, s in enumerate(made.sources) if s.name == name), None)
        layers = {id(f.layer): f.layer for f in tracer.fed if f.source == at and f.layer is not None}
        if at is None or not layers:
            raise InvalidError(f"values names an input {name!r} that is not looked up in an embedding")
        for layer in layers.values():
            rows = np.array(keras.ops.convert_to_numpy(layer.embeddings), np.float32)
            if len(given) > len(rows):
                raise InvalidError(f"{len(given)} values of {name!r}, and layer {layer.name!r} has {len(rows)} rows")
            fill(rows, snapshot, made.tables[id(layer)], made.sources[at].features[0], given, init(layer))
            assigned.append((layer.embeddings, rows))
    for v, x in assigned:
        v.assign(x)


def fill(rows: Any, snapshot: Snapshot, table: str, feature: str, values: Sequence[Any], begin: dict[str, Any]) -> None:
    """Writes the rows of values over rows."""
    if table not in snapshot.tables:
        raise InvalidError(f"the snapshot has no table {table!r} (it has {', '.join(snapshot.tables) or 'none'})")
    ids, weights = snapshot.table_weights(table)
    where = {int(i): k for k, i in enumerate(ids)}
    seed = int(snapshot.spec.get("seed", 0))
    buckets = buckets_of(snapshot.spec, feature)
    for i, value in enumerate(values):
        if value is None:
            continue
        row = id_of(feature, value, buckets)
        k = where.get(row)
        rows[i] = weights[k] if k is not None else first_row(begin, rows.shape[1], seed, table, row)


def buckets_of(spec: Mapping[str, Any], feature: str) -> int:
    """Returns how many buckets a feature is hashed to; 0: all 64 bits."""
    for f in spec.get("features") or ():
        if f.get("name") == feature:
            for other in ("vocabulary", "bucketize", "cross"):
                if f.get(other):
                    raise refuse(f"feature {feature!r} has a {other}", "values are known of features with hash alone")
            return int((f.get("hash") or {}).get("buckets", 0))
    raise InvalidError(f"the snapshot's job has no feature {feature!r}")
