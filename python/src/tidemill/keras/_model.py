"""What a Keras model has that a graph file describes, and what it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from ..errors import InvalidError

Features = Mapping[str, str | Sequence[str]]


def refuse(what: str, remedy: str) -> InvalidError:
    return InvalidError(f"{what} ({remedy})")


@dataclass
class Source:
    """One input of the model."""

    name: str
    shape: tuple[int | None, ...]  # without the batch
    dtype: str
    features: list[str]


@dataclass
class Reading:
    """A model as the export sees it."""

    model: Any
    sources: list[Source]
    loss: Any  # a keras.losses.Loss
    label: str
    classes: int
    kind: str  # of the prediction
    activation: str  # what makes a prediction of the model's output: none, sigmoid, softmax
    width: int
    embeddings: list[Any]
    tables: dict[int, str]  # of an Embedding layer, by id
    dropouts: list[Any]
    norms: list[Any]
    one_hot: bool = False  # the loss compares with a row of zeros and a one instead of a class
    comparisons: list[Any] = field(default_factory=list)  # NotEqual operations of functional models
    looked: set[int] = field(default_factory=set)  # inputs whose ids an Embedding layer is given
    trained: list[Any] = field(default_factory=list)  # variables, without those of embeddings

    def structure(self, tensors: Sequence[Any]) -> Any:
        """Returns tensors, one for each input, as the model takes them."""
        functional = getattr(self.model, "_functional", None) or self.model
        return keras.tree.pack_sequence_as(functional._inputs_struct, list(tensors))


def read(model: Any, features: Features | None, label: str | None, loss: Any, prediction: str | None) -> Reading:
    """Reads a model, or refuses it with the layer, the reason and the way out."""
    if keras.backend.backend() != "tensorflow":
        raise refuse(
            f"Keras computes with {keras.backend.backend()} here",
            "set KERAS_BACKEND=tensorflow before the model is made: the graph is TensorFlow's",
        )
    if not isinstance(model, keras.Model):
        raise refuse(f"a {type(model).__name__} is no Keras model", "give a keras.Model")
    if not model.built or not getattr(model, "inputs", None):
        raise refuse(
            f"model {model.name!r} does not say what it takes",
            "make it a functional or Sequential model that begins with keras.Input",
        )
    if len(model.outputs) != 1:
        raise refuse(f"model {model.name!r} has {len(model.outputs)} outputs", "export a model of one of them")
    shape = model.outputs[0].shape
    if len(shape) != 2 or shape[1] is None:
        raise refuse(
            f"the output of model {model.name!r} has shape {tuple(shape)}", "end it with Dense(1), Dense(k) or Reshape((1,))"
        )
    layers = list(flatten(model))
    sources = inputs(model, features or {})
    made = Reading(model, sources, None, "", 0, "", "none", int(shape[1]), [], {}, [], [])
    choose_loss(made, model.loss if loss is None else loss, label, prediction)
    names: set[str] = set()
    for layer in layers:
        if isinstance(layer, keras.layers.Embedding):
            check_embedding(layer)
            made.embeddings.append(layer)
            name, k = clean(layer.name), 1
            while name in names:
                k += 1
                name = f"{clean(layer.name)}_{k}"
            names.add(name)
            made.tables[id(layer)] = name
        elif type(layer) is keras.layers.Dropout:
            if layer.noise_shape is not None:
                raise refuse(f"layer {layer.name!r} has a noise_shape", "use Dropout without it")
            if layer.rate >= 1:
                raise refuse(f"layer {layer.name!r} drops everything", "use a rate below 1")
            if layer.rate > 0:
                made.dropouts.append(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            if type(layer) is not keras.layers.BatchNormalization or getattr(layer, "synchronized", False):
                raise refuse(
                    f"layer {layer.name!r} is a {type(layer).__name__}", "use keras.layers.BatchNormalization, not synchronized"
                )
            made.norms.append(layer)
    for part in [model, *layers]:
        functional = getattr(part, "_functional", None) or part
        for operation in getattr(functional, "_operations", []):
            if type(operation).__name__ == "NotEqual" and operation not in made.comparisons:
                made.comparisons.append(operation)
    own = {id(layer.embeddings) for layer in made.embeddings}
    for v in model.trainable_variables:
        if id(v) in own:
            continue
        if str(v.dtype) != "float32":
            raise refuse(
                f"variable {v.path!r} is {v.dtype}", "parameters are float32: use the dtype policy float32 or mixed_float16"
            )
        if getattr(v, "constraint", None) is not None:
            raise refuse(
                f"variable {v.path!r} has a constraint", "leave it out: the job's optimizer has none; l2 and clip_norm are there"
            )
        made.trained.append(v)
    return made


def flatten(layer: Any) -> Iterable[Any]:
    """Returns all layers in a model, each once, in order."""
    return layer._flatten_layers(include_self=False, recursive=True)  # type: ignore[no-any-return]


def clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def inputs(model: Any, features: Features) -> list[Source]:
    sources: list[Source] = []
    names = [t.name for t in model.inputs]
    for given in features:
        if given not in names:
            raise refuse(f"features names an input {given!r} that the model does not have", f"it has {', '.join(names)}")
    for t in model.inputs:
        shape = tuple(t.shape[1:])
        if "string" in str(t.dtype):
            raise refuse(
                f"input {t.name!r} takes text",
                "leave text layers such as StringLookup out: a feature's hash or vocabulary makes the ids",
            )
        if any(d is None for d in shape):
            raise refuse(f"input {t.name!r} has shape {(None, *shape)}", "give every dimension but the first a length")
        named = features.get(t.name, t.name)
        sources.append(Source(t.name, shape, str(t.dtype), [named] if isinstance(named, str) else [str(n) for n in named]))
    return sources


def choose_loss(made: Reading, loss: Any, label: str | None, prediction: str | None) -> None:
    """Fills in what is learned and what is predicted."""
    model = made.model
    if loss is None:
        raise refuse(f"model {model.name!r} has no loss", "compile it: model.compile(loss=…), or give loss=")
    for _ in range(2):  # {"output": [loss]} is Keras' for one output
        if isinstance(loss, Mapping) and len(loss) == 1:
            loss = next(iter(loss.values()))
        elif isinstance(loss, (list, tuple)) and len(loss) == 1:
            loss = loss[0]
    weights = getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)
    flat = keras.tree.flatten(weights) if weights is not None else []
    if any(w is not None and float(w) != 1 for w in flat):
        raise refuse(f"model {model.name!r} has loss_weights", "multiply inside the loss")
    loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        function = loss

        class Wrapped(keras.losses.Loss):  # type: ignore[misc]
            def call(self, y_true: Any, y_pred: Any) -> Any:
                return function(y_true, y_pred)

        name = getattr(function, "__name__", "loss")
        loss = Wrapped(name=name)
        kind = name
    else:
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(loss).__name__).lower()
    if loss.reduction != "sum_over_batch_size":
        raise refuse(
            f"loss {loss.name!r} has reduction {loss.reduction!r}",
            "use sum_over_batch_size: a job's gradients are of the mean of weight·loss over the batch's rows",
        )
    logits = bool(getattr(loss, "_fn_kwargs", {}).get("from_logits", False))
    natural = "multiclass" if made.width > 1 else "binary" if "binary" in kind else "regression"
    learned = label or natural
    if learned not in ("binary", "regression", "multiclass") or (learned == "multiclass") != (made.width > 1):
        raise refuse(
            f"label={label!r} does not fit an output of width {made.width}",
            "use binary or regression with 1, multiclass with more",
        )
    fits = {"binary": ("probability", "value"), "regression": ("value",), "multiclass": ("classes",)}[learned]
    chosen = prediction or (fits[0] if learned == natural else fits[-1])
    if chosen not in fits:
        raise refuse(f"prediction={chosen!r} does not fit a {learned} label", f"use {' or '.join(fits)}")
    made.loss, made.label, made.kind = loss, learned, chosen
    made.classes = made.width if learned == "multiclass" else 0
    made.one_hot = learned == "multiclass" and "sparse" not in kind
    if logits and chosen != "value":
        made.activation = "sigmoid" if chosen == "probability" else "softmax"


def check_embedding(layer: Any) -> None:
    what = f"layer {layer.name!r}"
    if type(layer).__name__ != "Embedding":
        raise refuse(f"{what} is a {type(layer).__name__}", "use keras.layers.Embedding itself")
    if not layer.trainable:
        raise refuse(f"{what} is not trainable", "rows of a table are learned; leave trainable as it is")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise refuse(f"{what} is quantized or has LoRA weights", "export the plain model")
    if layer.embeddings_regularizer is not None:
        raise refuse(
            f"{what} has an embeddings_regularizer, which would change every row in every batch",
            "use l2 of the job's optimizer.tables, which acts on the rows that a batch touches",
        )
    if layer.embeddings_constraint is not None:
        raise refuse(f"{what} has an embeddings_constraint", "leave it out")
    init(layer)


def init(layer: Any) -> dict[str, Any]:
    """Returns how rows of a table begin. Tables grow, so it cannot depend on how many there are."""
    given = layer.embeddings_initializer
    name, config = type(given).__name__, given.get_config()
    if name == "RandomUniform" and config["minval"] == -config["maxval"]:
        return {"kind": "uniform", "scale": float(config["maxval"])}
    if name == "RandomNormal" and config["mean"] == 0:
        return {"kind": "normal", "scale": float(config["stddev"])}
    if name == "Zeros" or (name == "Constant" and config["value"] == 0):
        return {"kind": "zero"}
    if name in ("Constant", "Ones") and isinstance(config.get("value", 1), (int, float)):
        return {"kind": "constant", "scale": float(config.get("value", 1))}
    raise refuse(
        f"layer {layer.name!r} begins its rows with {name} {config}",
        "a table grows, so use RandomUniform(-a, a), RandomNormal(0, s), Zeros, Ones or Constant",
    )
