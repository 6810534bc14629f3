#!/usr/bin/env python3
"""A bare tf.function loop: what TensorFlow reaches by itself on DeepFM, without XLA and without a system around it.

usage: tf_bare.py [--batch 2048] [--seconds 20] [--threads 1] [--repeat 5]

Each batch: rows are looked up by id, forward and backward pass, and Adagrad, sparse for the rows and dense for the
layers. The rows of the input are arrays in memory, made before the clock starts; ids are skewed as clicks are. The model is
that of `tidemill bench train --model deepfm`: 26 categories and 13 numbers, embeddings of 16, layers of 256 and 128.
Prints a JSON line with rows/s of each repetition and their median.

To compare on one machine, with nothing else running and the same number of threads:

    make tensorflow
    ./tidemill bench train --engine tensorflow --model deepfm --batch 2048 --slots 1 --json
    python3 bench/peers/tf_bare.py --batch 2048 --threads 1
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

FIELDS, NUMBERS, DIM, HIDDEN = 26, 13, 16, (256, 128)
ROWS_OF_TABLE = 1 << 20
LR, EPSILON = 0.05, 1e-10


class DeepFM:
    """One table of a linear weight and DIM factors for each id, and layers over the factors and the numbers."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.table = tf.Variable(rng.normal(0, 0.01, [ROWS_OF_TABLE, DIM + 1]).astype(np.float32))
        self.table_accum = tf.Variable(tf.fill([ROWS_OF_TABLE, DIM + 1], 0.1))
        sizes = [FIELDS * DIM + NUMBERS, *HIDDEN, 1]
        self.dense = []
        for n, m in zip(sizes[:-1], sizes[1:]):
            self.dense.append(tf.Variable(rng.normal(0, np.sqrt(2 / n), [n, m]).astype(np.float32)))
            self.dense.append(tf.Variable(tf.zeros([m])))
        self.dense += [tf.Variable(tf.zeros([NUMBERS, 1])), tf.Variable(rng.normal(0, 0.01, [NUMBERS, DIM]).astype(np.float32))]
        self.accums = [tf.Variable(tf.fill(v.shape, 0.1)) for v in self.dense]

    def scores(self, rows, x):
        """The logits of rows [N, FIELDS, 1 + DIM] and numbers [N, NUMBERS]."""
        *layers, linear, factors = self.dense
        v = rows[:, :, 1:]
        sums = tf.reduce_sum(v, 1) + x @ factors
        squares = tf.reduce_sum(v * v, 1) + (x * x) @ (factors * factors)
        h = tf.concat([tf.reshape(v, [-1, FIELDS * DIM]), x], 1)
        for i in range(0, len(layers), 2):
            h = h @ layers[i] + layers[i + 1]
            if i + 2 < len(layers):
                h = tf.nn.relu(h)
        wide = tf.reduce_sum(rows[:, :, 0], 1) + (x @ linear)[:, 0]
        return h[:, 0] + wide + 0.5 * tf.reduce_sum(sums * sums - squares, 1)

    @tf.function(jit_compile=False)
    def step(self, y, x, ids):
        # Ids that a batch has several times are looked up, and updated, once.
        unique, index = tf.unique(tf.reshape(ids, [-1]))
        table = tf.gather(self.table, unique)
        with tf.GradientTape() as tape:
            tape.watch(table)
            rows = tf.reshape(tf.gather(table, index), [-1, FIELDS, DIM + 1])
            score = self.scores(rows, x)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, score))
        grad, *rest = tape.gradient(loss, [table, *self.dense])
        grad = tf.math.unsorted_segment_sum(grad.values, grad.indices, tf.shape(unique)[0])
        tf.raw_ops.ResourceSparseApplyAdagradV2(
            var=self.table.handle, accum=self.table_accum.handle, lr=LR, epsilon=EPSILON, grad=grad, indices=unique
        )
        for v, a, g in zip(self.dense, self.accums, rest):
            tf.raw_ops.ResourceApplyAdagradV2(var=v.handle, accum=a.handle, lr=LR, epsilon=EPSILON, grad=g)
        return tf.sigmoid(score)


def batches(n, batch):
    """n batches of made-up rows; a few values of each category are in most rows, and most in few."""
    rng = np.random.default_rng(2)
    for _ in range(n):
        value = np.minimum(rng.zipf(1.2, [batch, FIELDS]), 1 << 30).astype(np.uint64)
        mixed = (value * np.uint64(0x9E3779B97F4A7C15) + np.arange(FIELDS, dtype=np.uint64) * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(44)
        ids = (mixed % np.uint64(ROWS_OF_TABLE)).astype(np.int32)
        x = rng.normal(0, 1, [batch, NUMBERS]).astype(np.float32)
        y = (rng.random(batch) < 0.25).astype(np.float32)
        yield tf.constant(y), tf.constant(x), tf.constant(ids)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--seconds", type=float, default=20, help="of each repetition")
    p.add_argument("--threads", type=int, default=1, help="of the operations, and of those at the same time")
    p.add_argument("--repeat", type=int, default=5)
    a = p.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(a.threads)
    tf.config.threading.set_inter_op_parallelism_threads(a.threads)
    data = list(batches(64, a.batch))
    model = DeepFM()
    for b in data[:8]:  # traced, and memory warm
        model.step(*b)
    rates = []
    for _ in range(a.repeat):
        began, rows, at = time.perf_counter(), 0, 0
        while time.perf_counter() - began < a.seconds:
            model.step(*data[at % len(data)]).numpy()
            rows, at = rows + a.batch, at + 1
        rates.append(rows / (time.perf_counter() - began))
    print(json.dumps({
        "peer": "tf.function", "model": "deepfm", "batch": a.batch, "threads": a.threads, "tensorflow": tf.__version__,
        "rows_per_second": statistics.median(rates), "each": rates,
    }))


if __name__ == "__main__":
    main()
