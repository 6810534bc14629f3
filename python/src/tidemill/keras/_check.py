"""Compares an exported graph with Keras on random rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ._model import Reading, refuse
from ._patch import dropping
from ._trace import Graph, flat

TOLERANCE = 1e-4
"""Both compute in float32, the same formulas in nearly the same order."""


def check(made: Reading, graph: Graph, rows: int, seed: int) -> dict[str, Any]:
    """Returns the largest relative differences of losses and gradients, and where they are."""
    rng = np.random.default_rng(seed)
    batch = Batch(made, graph, rows, rng)
    values = perturbed(made, graph, rng)
    want = by_keras(made, graph, batch, values)
    got = by_graph(made, graph, batch, values)
    for name, x in want.items():
        if name in ("loss", "training loss") and not np.isfinite(x).all():
            raise refuse(
                f"the {name} of the model is not finite on random rows",
                "mend the loss or the initializers: training would not begin",
            )
    del want["training loss"]
    loss = max(difference(got[name], want.pop(name), 1e-6) for name in ("loss", "prediction"))
    # A gradient that is zero but for rounding, as that of a bias before a norm, is compared on the scale of the others.
    least = max(1e-6, *(0.01 * float(np.abs(x).max()) for x in want.values() if x.size), 0)
    gradient, worst = max((difference(got[name], x, least), name) for name, x in want.items())
    return {"loss": loss, "gradient": gradient, "worst": worst}


def difference(a: Any, b: Any, least: float) -> float:
    """Returns the largest difference of two tensors, relative to the largest value of b, or to least."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), least)) if a.size else 0.0


class Batch:
    """Random rows as the model takes them."""

    def __init__(self, made: Reading, graph: Graph, rows: int, rng: np.random.Generator) -> None:
        self.rows = rows
        self.keys = rng.integers(0, 1 << 63, rows, dtype=np.uint64)
        self.weight = rng.uniform(0.5, 2, rows).astype(np.float32)
        if made.label == "regression":
            self.label = rng.normal(size=rows).astype(np.float32)
        else:
            self.label = rng.integers(0, max(made.classes, 2), rows).astype(np.float32)
        layers: dict[int, list[Any]] = {}
        for f in graph.fed:
            if f.layer is not None:
                layers.setdefault(f.source, []).append(f.layer)
        self.inputs: list[Any] = []  # ids for those that are looked up, numbers for the others
        for i, s in enumerate(made.sources):
            shape = (rows, *(int(d or 0) for d in s.shape))
            if i not in layers:
                self.inputs.append(rng.normal(size=shape).astype(s.dtype))
                continue
            most = min(layer.input_dim for layer in layers[i])
            ids = np.minimum(rng.integers(1, max(2, most), shape), most - 1)
            if len(shape) == 2 and any(layer.mask_zero for layer in layers[i]):
                filled = rng.integers(1, shape[1] + 1, rows)
                ids[np.arange(shape[1])[None, :] >= filled[:, None]] = 0
            self.inputs.append(ids.astype(s.dtype))


def perturbed(made: Reading, graph: Graph, rng: np.random.Generator) -> dict[int, Any]:
    """Returns values of variables near those that they have, so that zeros hide nothing."""
    values: dict[int, Any] = {}
    for v in made.trained:
        x = np.asarray(keras.ops.convert_to_numpy(v), np.float32)
        values[id(v)] = x + rng.normal(scale=0.05, size=x.shape).astype(np.float32)
    for norm, v in graph.moving:
        x = np.asarray(keras.ops.convert_to_numpy(v), np.float32)
        noise = rng.uniform(0.1, 0.5, x.shape).astype(np.float32)
        values[id(v)] = x + (noise if v is norm.moving_variance else noise - 0.3)
    for layer in made.embeddings:
        x = np.array(keras.ops.convert_to_numpy(layer.embeddings), np.float32)
        if layer.mask_zero:
            x[0] = 0  # a position without an id is a row of zeros
        values[id(layer.embeddings)] = x
    return values


def by_keras(made: Reading, graph: Graph, batch: Batch, values: dict[int, Any]) -> dict[str, Any]:
    """Computes with the model's own layers, losses and reduction."""
    model = made.model
    given = {k: tf.constant(x) for k, x in values.items()}
    trainable = [given[id(v)] if id(v) in given else tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    rest = [given[id(v)] if id(v) in given else tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
    x = made.structure([tf.constant(t) for t in batch.inputs])
    label = tf.constant(batch.label)
    y = tf.one_hot(tf.cast(label, tf.int32), made.width) if made.one_hot else label[:, None]
    forward = flat(model.stateless_call(trainable, rest, x, training=False)[0])
    activation = {"none": tf.identity, "sigmoid": tf.sigmoid, "softmax": tf.nn.softmax}[made.activation]
    each = [float(made.loss(y[i : i + 1], forward[i : i + 1])) for i in range(batch.rows)]
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        with dropping(made.dropouts, tf.constant(batch.keys)):
            output, after, extra = model.stateless_call(trainable, rest, x, training=True, return_losses=True)
        total = made.loss(y, flat(output), sample_weight=tf.constant(batch.weight)) + sum(tf.reduce_sum(e) for e in extra)
    gradients = tape.gradient(total, trainable)
    out: dict[str, Any] = {
        "prediction": activation(forward).numpy(),
        "loss": np.array(each, np.float32),
        "training loss": total.numpy(),
    }
    tables = {id(layer.embeddings): made.tables[id(layer)] for layer in made.embeddings}
    for v, g in zip(model.trainable_variables, gradients, strict=True):
        if g is not None:
            name = f"the rows of table {tables[id(v)]!r}" if id(v) in tables else f"variable {v.path!r}"
            out[name] = tf.convert_to_tensor(g).numpy()
    state = {id(v): t for v, t in zip(model.non_trainable_variables, after, strict=True)}
    for _, v in graph.moving:
        out[f"statistic {v.path!r}"] = state[id(v)].numpy()
    return out


def by_graph(made: Reading, graph: Graph, batch: Batch, values: dict[int, Any]) -> dict[str, Any]:
    """Computes with the exported graph, fed as a worker feeds it."""
    m = graph.manifest
    definition = tf.compat.v1.GraphDef.FromString(graph.definition)
    feeds: dict[str, Any] = {}
    rows: list[tuple[Any, Any, str]] = []  # layer, ids, gradient
    fed = iter(graph.fed)
    by_name = {tuple(s.features): i for i, s in enumerate(made.sources)}
    for one in m["inputs"]:
        kind, tensor = one["kind"], one["tensor"]
        if kind == "numbers":
            feeds[tensor] = batch.inputs[by_name[tuple(one["features"])]]
        elif kind in ("label", "weight", "keys"):
            feeds[tensor] = {"label": batch.label, "weight": batch.weight, "keys": batch.keys}[kind]
        else:
            f = next(fed)
            ids = batch.inputs[f.source].astype(np.int64)
            if f.layer is None:
                feeds[tensor] = (ids != 0).astype(np.float32)
            else:
                feeds[tensor] = values[id(f.layer.embeddings)][ids]
                rows.append((f.layer, ids, one["gradient"]))
    variables = {v.path: v for v in [*made.trained, *(v for _, v in graph.moving)]}
    for p in m["parameters"]:
        feeds[p["tensor"]] = values[id(variables[p["name"]])]
    fetches = {"prediction": m["prediction"]["tensor"], "loss": m["loss"]}
    for p in m["parameters"]:
        if p["kind"] == "weight":
            fetches[f"variable {p['name']!r}"] = p["gradient"]
        else:
            fetches[f"statistic {p['name']!r}"] = p["contribution"]
    for i, (_, _, gradient) in enumerate(rows):
        fetches[f"rows {i}"] = gradient
    with tf.Graph().as_default() as g:
        tf.import_graph_def(definition, name="")
        with tf.compat.v1.Session(graph=g) as session:
            out: dict[str, Any] = session.run(fetches, feeds)
    for p in m["parameters"]:
        if p["kind"] == "moving":
            name = f"statistic {p['name']!r}"
            out[name] = p["momentum"] * values[id(variables[p["name"]])] + out[name]
    for i, (layer, ids, _) in enumerate(rows):
        name = f"the rows of table {made.tables[id(layer)]!r}"
        if name not in out:
            out[name] = np.zeros(layer.embeddings.shape, np.float32)
        gradient = out.pop(f"rows {i}")
        masked = layer.mask_zero and ids.ndim == 2
        at = ids.reshape(-1)
        g = gradient.reshape(len(at), -1)
        np.add.at(out[name], at[at > 0] if masked else at, g[at > 0] if masked else g)
    return out
