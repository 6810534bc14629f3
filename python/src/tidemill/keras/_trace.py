"""A model as one frozen graph: forward pass, loss and gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from ._model import Reading, init, refuse
from ._ops import OPS, REFUSED
from ._patch import dropping, replaced


@dataclass
class Fed:
    """Something that a worker makes of a feature's ids and feeds."""

    layer: Any  # the Embedding layer whose rows it is; None: which positions have an id
    source: int  # of the ids
    shape: tuple[int, ...]  # without the batch


class Lookups:
    """What Embedding layers do while a model is traced: they give what is fed."""

    def __init__(self, made: Reading, ids: list[Any], rows: Any, make: Callable[[Fed], Any]) -> None:
        self.made, self.ids, self.count, self.make = made, ids, rows, make
        self.rows: list[tuple[Fed, Any]] = []
        self.masks: dict[int, Any] = {}  # by source
        self.used = 0

    def again(self) -> None:
        """Begins another call of the same model, whose look-ups are the same."""
        self.used = 0

    def source(self, layer: Any, tensor: Any) -> int:
        """Returns which input's ids a layer is given."""
        t = tensor
        while True:
            for i, known in enumerate(self.ids):
                if t is known:
                    self.made.looked.add(i)
                    return i
            if t.op.type not in ("Identity", "Cast", "StopGradient"):
                break
            t = t.op.inputs[0]
        raise refuse(
            f"layer {layer.name!r} looks up ids that the model computes (op {t.op.type})",
            "give it an Input of its own, and make the ids with the feature's hash, vocabulary or bucketize",
        )

    def call(self, layer: Any) -> Callable[..., Any]:
        def call(inputs: Any) -> Any:
            at = self.source(layer, inputs)
            if self.used == len(self.rows):
                shape = tuple(int(d or 0) for d in self.made.sources[at].shape)
                if len(shape) > 1:
                    raise refuse(
                        f"layer {layer.name!r} is given ids of shape {(None, *shape)}", "give it Input(()) or Input((length,))"
                    )
                fed = Fed(layer, at, (*shape, int(layer.output_dim)))
                self.rows.append((fed, self.make(fed)))
            fed, tensor = self.rows[self.used]
            if fed.layer is not layer or fed.source != at:
                raise refuse(f"layer {layer.name!r} is called in another order in training", "call layers in the same order")
            self.used += 1
            return tf.cast(tensor, layer.compute_dtype)

        return call

    def present(self, at: int) -> Any:
        """Returns which positions of an input of ids hold one, [N, length] bools; None where each example has one."""
        shape = tuple(int(d or 0) for d in self.made.sources[at].shape)
        if not shape:
            return None
        if at not in self.masks:
            self.masks[at] = self.make(Fed(None, at, shape))
        return self.masks[at] > 0.5

    def compute_mask(self, layer: Any) -> Callable[..., Any]:
        def compute_mask(inputs: Any, mask: Any = None) -> Any:
            return self.present(self.source(layer, inputs)) if layer.mask_zero else None

        return compute_mask

    def not_equal(self, operation: Any) -> Callable[..., Any]:
        """A functional model keeps masks as comparisons of ids with 0."""
        own = operation.call

        def call(x1: Any, x2: Any) -> Any:
            for i, known in enumerate(self.ids):
                if x1 is known and i in self.made.looked and not tf.is_tensor(x2) and x2 == 0:
                    mask = self.present(i)
                    return tf.fill([self.count], True) if mask is None else mask
            return own(x1, x2)

        return call

    @contextlib.contextmanager
    def instead(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for layer in self.made.embeddings:
                stack.enter_context(replaced(layer, call=self.call(layer), compute_mask=self.compute_mask(layer)))
            for operation in self.made.comparisons:
                stack.enter_context(replaced(operation, call=self.not_equal(operation)))
            yield


def losses(made: Reading, label: Any, output: Any) -> Any:
    """Returns the loss of each example, [N]."""
    if made.one_hot:
        label = tf.one_hot(tf.cast(label, tf.int32), made.width)
    elif made.width == 1:
        label = label[:, None]
    dtype = made.loss.dtype
    values = tf.convert_to_tensor(made.loss.call(tf.cast(label, dtype), tf.cast(output, dtype)))
    if not values.shape.rank:
        raise refuse(
            f"loss {made.loss.name!r} gives one value for a batch",
            "return a loss for each example, [N]; the mean is taken outside",
        )
    if values.shape.rank > 1:
        values = tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))
    return tf.cast(values, tf.float32)


def flat(output: Any) -> Any:
    return keras.tree.flatten(output)[0]


class Tracer:
    """Builds the one function that a graph is made of. Its arguments are, in order: the model's inputs, label, weight, keys,
    the trained variables, the moving statistics, and what is fed for look-ups."""

    def __init__(self, made: Reading) -> None:
        self.made = made
        self.moving = [(n, v) for n in made.norms if n.trainable for v in (n.moving_mean, n.moving_variance)]
        self.fed: list[Fed] = []  # in the order in which a call asks for it

    def specs(self) -> list[Any]:
        made = self.made
        specs = [tf.TensorSpec([None, *s.shape], s.dtype, f"input_{i}") for i, s in enumerate(made.sources)]
        specs += [
            tf.TensorSpec([None], tf.float32, "label"),
            tf.TensorSpec([None], tf.float32, "weight"),
            tf.TensorSpec([None], tf.uint64, "keys"),
        ]
        parameters = [*made.trained, *(v for _, v in self.moving)]
        specs += [tf.TensorSpec(v.shape, tf.float32, f"parameter_{i}") for i, v in enumerate(parameters)]
        return specs + [tf.TensorSpec([None, *f.shape], tf.float32, f"fed_{i}") for i, f in enumerate(self.fed)]

    def values(self, given: dict[int, Any]) -> tuple[list[Any], list[Any]]:
        """Returns the model's values for a stateless call: those given by variable, the others as they are."""
        model, tables = self.made.model, {id(layer.embeddings) for layer in self.made.embeddings}

        def value(v: Any) -> Any:
            if id(v) in given:
                return given[id(v)]
            if id(v) in tables:  # nobody looks at it
                return tf.zeros(v.shape, v.dtype)
            return tf.convert_to_tensor(v.value)

        return [value(v) for v in model.trainable_variables], [value(v) for v in model.non_trainable_variables]

    def build(self, *arguments: Any) -> list[Any]:
        """Returns what is fetched: prediction, loss, gradients of trained variables and of rows, contributions."""
        made, model = self.made, self.made.model
        rest = list(arguments)

        def take(n: int) -> list[Any]:
            taken = rest[:n]
            del rest[:n]
            return taken

        ids = take(len(made.sources))
        label, weight, keys = take(3)
        given = {id(v): t for v, t in zip(made.trained, take(len(made.trained)), strict=True)}
        inference = given | {id(v): t for (_, v), t in zip(self.moving, take(len(self.moving)), strict=True)}
        # In training a norm looks at its batch alone: what its statistics become of zeros is what the batch adds.
        training = given | {id(v): tf.zeros(v.shape, tf.float32) for _, v in self.moving}
        n = tf.shape(weight)[0]
        # What is predicted may not depend on the weight, not even on how many there are.
        count = tf.shape(rest[0])[0] if rest else n
        asked: list[Fed] = []

        def make(fed: Fed) -> Any:
            asked.append(fed)
            return rest.pop(0) if rest else tf.zeros([n, *fed.shape])

        lookups = Lookups(made, ids, count, make)
        with lookups.instead():
            forward = flat(model.stateless_call(*self.values(inference), made.structure(ids), training=False)[0])
            before = self.values(training)
            watched = [given[id(v)] for v in made.trained] + [t for _, t in lookups.rows]
            with tf.GradientTape() as tape:
                tape.watch(watched)
                lookups.again()
                with dropping(made.dropouts, keys):
                    output, after, extra = model.stateless_call(*before, made.structure(ids), training=True, return_losses=True)
                total = tf.reduce_sum(weight * losses(made, label, flat(output))) / tf.cast(n, tf.float32)
                for x in extra:
                    total += tf.cast(tf.reduce_sum(x), tf.float32)
        self.fed = asked
        if getattr(forward, "_keras_mask", None) is not None:
            raise refuse(
                "the model's output has a mask",
                "reduce masked positions inside the model, with GlobalAveragePooling1D for example",
            )
        activation = {"none": tf.identity, "sigmoid": tf.sigmoid, "softmax": tf.nn.softmax}[made.activation]
        return [
            tf.cast(activation(forward), tf.float32),
            losses(made, label, forward),
            *self.gradients(tape, total, watched, [fed.layer for fed, _ in lookups.rows]),
            *self.contributions(before[1], after),
        ]

    def gradients(self, tape: Any, total: Any, watched: list[Any], layers: list[Any]) -> list[Any]:
        names = [f"variable {v.path!r}" for v in self.made.trained] + [f"the rows of layer {layer.name!r}" for layer in layers]
        try:
            found = tape.gradient(total, watched)
        except LookupError as e:
            raise refuse(
                f"the model has an op without a gradient: {e}", "use another layer there, or keras.ops.stop_gradient"
            ) from e
        out = []
        for name, at, g in zip(names, watched, found, strict=True):
            if g is None:
                raise refuse(
                    f"the loss does not depend on {name}, or by an op that has no gradient",
                    "set trainable=False, or leave it out",
                )
            out.append(tf.reshape(tf.cast(tf.convert_to_tensor(g), tf.float32), tf.shape(at)))
        return out

    def contributions(self, before: list[Any], after: list[Any]) -> list[Any]:
        moved = {id(v): norm for norm, v in self.moving}
        found = {}
        for v, old, new in zip(self.made.model.non_trainable_variables, before, after, strict=True):
            if new is old:
                if id(v) in moved:
                    raise refuse(
                        f"layer {moved[id(v)].name!r} is called with training=False", "set trainable=False on the layer instead"
                    )
            elif id(v) in moved:
                found[id(v)] = tf.cast(new, tf.float32)
            elif "seed_generator" in v.path:
                raise refuse(
                    f"a layer of the model draws random numbers in training ({v.path})",
                    "use keras.layers.Dropout, whose numbers are functions of the example; others cannot be repeated",
                )
            else:
                raise refuse(
                    f"variable {v.path!r} changes in training, and not by a gradient", "only BatchNormalization may do that"
                )
        return [found[id(v)] for _, v in self.moving]


@dataclass
class Graph:
    """A frozen graph, and what its tensors mean."""

    definition: bytes
    manifest: dict[str, Any]  # without what only the file knows
    fed: list[Fed]
    moving: list[tuple[Any, Any]]  # norm and variable


def find(tracer: Tracer) -> None:
    """Finds what is fed. It depends on the look-ups, and masks depend on which inputs are looked up."""
    for _ in range(2 if tracer.made.comparisons else 1):
        tracer.fed = []
        tf.function(tracer.build, autograph=False).get_concrete_function(*tracer.specs())


def trace(made: Reading) -> Graph:
    """Traces a model, or refuses it with what stands in the way."""
    tracer = Tracer(made)
    find(tracer)
    concrete = tf.function(tracer.build, autograph=False).get_concrete_function(*tracer.specs())
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
    fetches = [t.name for t in frozen.outputs]
    definition = needed(frozen.graph.as_graph_def(), fetches)
    strip(definition)
    allowed(definition)
    there = {n.name for n in definition.node if n.op == "Placeholder"}
    return Graph(
        definition.SerializeToString(deterministic=True),
        describe(made, tracer, [t.name for t in frozen.inputs], fetches, there, sorted({n.op for n in definition.node})),
        tracer.fed,
        tracer.moving,
    )


def needed(definition: Any, fetches: list[str]) -> Any:
    """Returns the part of a graph that what is fetched depends on."""
    nodes = {n.name: n for n in definition.node}
    wanted = {name.split(":")[0] for name in fetches}
    stack = list(wanted)
    while stack:
        for given in nodes[stack.pop()].input:
            name = given.removeprefix("^").split(":")[0]
            if name not in wanted:
                wanted.add(name)
                stack.append(name)
    kept = tf.compat.v1.GraphDef(versions=definition.versions, library=definition.library)
    kept.node.extend(nodes[name] for name in sorted(wanted))  # TensorFlow's order is not always the same
    return kept


def strip(definition: Any) -> None:
    """Removes what places or explains nodes."""
    for n in definition.node:
        n.device = ""
        n.ClearField("experimental_debug_info")
        n.ClearField("experimental_type")
        for name in [a for a in n.attr if a.startswith("_")]:
            del n.attr[name]


def allowed(definition: Any) -> None:
    for n in definition.node:
        if n.op in OPS:
            if n.op == "GatherV2" and n.attr["batch_dims"].i != 0:
                raise refuse(
                    f"node {n.name!r}: op GatherV2 gathers by batch, which can end the process",
                    "multiply with keras.ops.one_hot of the positions instead",
                )
            continue
        for parts, what, remedy in REFUSED:
            if any(p in n.op for p in parts):
                raise refuse(f"node {n.name!r}: op {n.op} {what}", remedy)
        raise refuse(f"node {n.name!r}: op {n.op} is not known to be safe", "write that part of the model with other layers")
    if definition.library.function:
        raise refuse(
            f"the graph calls functions such as {definition.library.function[0].signature.name!r}",
            "give recurrent layers unroll=True, and write branches with keras.ops.where",
        )


def describe(
    made: Reading, tracer: Tracer, names: list[str], fetches: list[str], there: set[str], ops: list[str]
) -> dict[str, Any]:
    """Returns the manifest's members about tensors. Arguments that the graph does not use are left out."""
    feeds = iter(names)
    results = iter(fetches)
    prediction, loss = next(results), next(results)
    gradients = [next(results) for _ in made.trained]
    of_rows = iter([next(results) for f in tracer.fed if f.layer is not None])
    inputs: list[dict[str, Any]] = []

    def used(tensor: str) -> bool:
        return tensor.split(":")[0] in there

    looked = {f.source for f in tracer.fed}
    for i, s in enumerate(made.sources):
        tensor = next(feeds)
        if not used(tensor):
            if i not in looked:
                raise refuse(f"the prediction does not depend on input {s.name!r}", "leave it out of the model")
            continue
        if i in looked:
            raise refuse(f"input {s.name!r} is looked up and used as a number too", "give the model two inputs, of two features")
        values = 1
        for d in s.shape:
            values *= int(d or 0)
        if len(s.features) != values:
            raise refuse(
                f"input {s.name!r} has {values} values for an example, and {len(s.features)} feature names",
                f"give features={{{s.name!r}: [{values} names]}}",
            )
        if s.dtype != "float32":
            raise refuse(
                f"input {s.name!r} is {s.dtype}", "make it keras.Input(..., dtype='float32'); numbers are fed as float32"
            )
        inputs.append({"kind": "numbers", "tensor": tensor, "shape": [-1, *s.shape], "features": s.features})
    for kind in ("label", "weight", "keys"):
        tensor = next(feeds)
        if used(tensor):
            inputs.append({"kind": kind, "tensor": tensor, "shape": [-1]})
        elif kind == "label":
            raise refuse(f"loss {made.loss.name!r} does not depend on the label", "write a loss that does")
    parameters = []
    for v, gradient in zip(made.trained, gradients, strict=True):
        parameters.append({"name": v.path, "kind": "weight", "tensor": next(feeds), "shape": list(v.shape), "gradient": gradient})
    for norm, v in tracer.moving:
        parameters.append(
            {"name": v.path, "kind": "moving", "tensor": next(feeds), "shape": list(v.shape), "momentum": float(norm.momentum)}
        )
    for f in tracer.fed:
        source = made.sources[f.source]
        if len(source.features) != 1:
            raise refuse(f"input {source.name!r} takes ids, and has {len(source.features)} feature names", "name one feature")
        one: dict[str, Any] = {"tensor": next(feeds), "shape": [-1, *f.shape], "feature": source.features[0]}
        if f.layer is None:
            one["kind"] = "present"
        else:
            one |= {"kind": "rows", "table": made.tables[id(f.layer)], "gradient": next(of_rows)}
        inputs.append(one)
    for p, (_, v) in zip(parameters[len(made.trained) :], tracer.moving, strict=True):
        p["contribution"] = next(results)
        if not used(p["tensor"]):
            raise refuse(f"the prediction does not depend on {v.path!r}", "leave the layer out")
    called = {id(f.layer) for f in tracer.fed if f.layer is not None}
    return {
        "label": {"type": made.label} | ({"classes": made.classes} if made.classes else {}),
        "inputs": inputs,
        "tables": [
            {"name": made.tables[id(layer)], "dim": int(layer.output_dim), "init": init(layer)}
            for layer in made.embeddings
            if id(layer) in called
        ],
        "parameters": parameters,
        "prediction": {"tensor": prediction, "kind": made.kind, "width": made.width},
        "loss": loss,
        "ops": ops,
    }
