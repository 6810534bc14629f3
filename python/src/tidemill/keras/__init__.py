"""Keras models for Tidemill.

    import tidemill.keras

    model.compile(loss="binary_crossentropy")          # the optimizer is the job's
    tidemill.keras.export(model, "ratings.graph")
    client.submit({..., "architecture": {"kind": "graph", "file": "ratings.graph"}})

`export` writes a compiled Keras 3 model (TensorFlow backend) as a graph file (docs/format/graph.md). It needs the extra
`keras`; this module alone imports Keras and TensorFlow."""

from ._export import Exported, export

__all__ = ["Exported", "export"]
