"""Keras models for Tidemill.

    import tidemill.keras

    model.compile(loss="binary_crossentropy")          # the optimizer is the job's
    tidemill.keras.export(model, "ratings.graph")
    client.submit({..., "architecture": {"kind": "graph", "file": "ratings.graph"}})

    tidemill.keras.load_weights(model, tidemill.load_snapshot("data"), {"user": user_ids, "item": item_ids})

`export` writes a compiled Keras 3 model (TensorFlow backend) as a graph file (docs/format/graph.md); `load_weights` gives
the model what was trained. They need the extra `keras`: this module alone imports Keras and TensorFlow."""

try:
    import keras as _keras  # noqa: F401
    import tensorflow as _tensorflow  # noqa: F401
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        f"tidemill.keras needs Keras and TensorFlow: pip install 'tidemill[keras]' ({e})", name=e.name
    ) from e

from ._export import Exported, export
from ._load import load_weights

__all__ = ["Exported", "export", "load_weights"]
