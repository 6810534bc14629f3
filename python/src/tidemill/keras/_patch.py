"""Stands in for some layers while a model is traced.

Embedding layers give rows that are fed instead of looking them up. Dropout layers draw from the keys
of the examples, so that a unit is dropped or kept wherever an example is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from .._ids import mix


def mix_tensor(x: Any) -> Any:
    shift = tf.bitwise.right_shift
    x = tf.bitwise.bitwise_xor(x, shift(x, tf.constant(30, tf.uint64)))
    x = x * tf.constant(0xBF58476D1CE4E5B9, tf.uint64)
    x = tf.bitwise.bitwise_xor(x, shift(x, tf.constant(27, tf.uint64)))
    x = x * tf.constant(0x94D049BB133111EB, tf.uint64)
    return tf.bitwise.bitwise_xor(x, shift(x, tf.constant(31, tf.uint64)))


def kept(keys: Any, layer: int, units: int, rate: float) -> Any:
    """Returns [N, units] bools: which units of the layer-th use of dropout an example keeps."""
    salts = tf.constant(np.array([mix((layer + 1) << 32 | u) for u in range(units)], np.uint64))
    drawn = mix_tensor(tf.bitwise.bitwise_xor(keys[:, None], salts[None, :]))
    top = tf.cast(tf.bitwise.right_shift(drawn, tf.constant(40, tf.uint64)), tf.float32)
    return top * (1 / (1 << 24)) >= np.float32(rate)


@contextlib.contextmanager
def replaced(layer: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """Gives one layer other methods for a while. Keras' own bookkeeping of attributes does not see it."""
    for name, method in methods.items():
        object.__setattr__(layer, name, method)
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(layer, name)


@contextlib.contextmanager
def dropping(layers: list[Any], keys: Any) -> Iterator[None]:
    """Lets dropout layers draw from keys while they are called in training."""
    uses = 0

    def call_of(layer: Any) -> Callable[..., Any]:
        def call(inputs: Any, training: bool = False) -> Any:
            nonlocal uses
            if not training:
                return inputs
            shape = inputs.shape[1:]
            if shape.rank is None or None in shape.as_list():
                raise ValueError(
                    f"layer {layer.name!r} drops units of a layer of shape {inputs.shape}: their number is not known"
                )
            mask = kept(keys, uses, shape.num_elements(), layer.rate)
            uses += 1
            mask = tf.reshape(mask, [-1, *shape.as_list()])
            return tf.where(mask, inputs / tf.cast(1 - layer.rate, inputs.dtype), tf.zeros_like(inputs))

        return call

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replaced(layer, call=call_of(layer)))
        yield
