"""From a Keras model to a graph file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .._version import __version__
from ..errors import InvalidError
from . import _file
from ._check import TOLERANCE, check
from ._model import Features, read, refuse
from ._trace import trace


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    path: str
    hash: str
    """SHA-256 of the file"""
    features: tuple[str, ...]
    """what the graph takes of a job's features"""
    tables: tuple[str, ...]
    parameters: int
    """how many values the dense tensors have together"""
    rows: int
    """of the self-check"""
    loss_difference: float
    gradient_difference: float
    """the largest difference from Keras, relative to the largest value of the tensor"""

    @property
    def architecture(self) -> dict[str, Any]:
        """The spec's `architecture`."""
        return {"kind": "graph", "file": self.path}

    def __str__(self) -> str:
        tables = ", ".join(self.tables) or "none"
        return (
            f"{self.path}: {self.parameters} values in dense tensors, tables: {tables}; on {self.rows} random rows the losses "
            f"differ from Keras' by {self.loss_difference:.1e} at most, the gradients by {self.gradient_difference:.1e}"
        )


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    features: Features | None = None,
    label: str | None = None,
    loss: Any = None,
    prediction: str | None = None,
    rows: int = 64,
    seed: int = 0,
    verbose: bool = True,
) -> Exported:
    """Writes a compiled Keras model as a graph file, and returns what it found.

    Each input of the model takes the job's feature of its name; `features` names others: `{"user": "user_id"}`, or for an
    input of several numbers `{"numbers": ["price", "age"]}`. What an `Embedding` layer looks up becomes a table of the job: its
    ids are the feature's, any number of them; its rows begin by the layer's initializer. The label's type and what a
    prediction is follow from the loss; `label` (binary, regression, multiclass) and `prediction` (probability, value,
    classes) say otherwise. `loss` stands for the compiled one. The graph is compared with Keras on `rows` random rows, and
    the result printed unless `verbose` is off.

    Raises InvalidError for a model that a graph file cannot hold, naming the layer, the reason and the way out.
    """
    if rows < 2:
        raise InvalidError(f"rows={rows} (compare 2 rows or more)")
    made = read(model, features, label, loss, prediction)
    graph = trace(made)
    found = check(made, graph, rows, seed)
    for what, value in (("losses", found["loss"]), ("gradients", found["gradient"])):
        if not value <= TOLERANCE:
            raise refuse(
                f"the graph's {what} differ from Keras' by {value:.1e} of the largest, at {found['worst']}",
                "a layer that behaves otherwise when it is called again may do that; export the model without it",
            )
    variables = [*made.trained, *(v for _, v in graph.moving)]
    values = [np.asarray(keras.ops.convert_to_numpy(v), np.float32) for v in variables]
    for v, x in zip(variables, values, strict=True):
        if not np.isfinite(x).all():
            raise refuse(f"variable {v.path!r} is not finite", "make the model anew, or load weights that are finite")
    parts = {"graph.pb": graph.definition}
    if values:
        parts["parameters.bin"] = _file.parameters(values)
    manifest = {
        "name": model.name,
        "made": {"tidemill": __version__, "keras": keras.__version__, "tensorflow": tf.__version__},
        **graph.manifest,
        "check": {"rows": rows, "loss": found["loss"], "gradient": found["gradient"]},
    }
    data = _file.pack(manifest, parts)
    if len(data) > _file.LIMIT:
        raise refuse(f"the file would have {len(data)} bytes, more than {_file.LIMIT >> 20} MiB", "use smaller dense layers")
    _file.write(path, data)
    named: list[str] = []
    for one in manifest["inputs"]:
        named += [n for n in one.get("features", [one.get("feature")]) if n and n not in named]
    exported = Exported(
        os.fspath(path),
        hashlib.sha256(data).hexdigest(),
        tuple(named),
        tuple(t["name"] for t in manifest["tables"]),
        sum(int(x.size) for x in values),
        rows,
        found["loss"],
        found["gradient"],
    )
    if verbose:
        print(exported)
    return exported
