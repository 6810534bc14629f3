"""TensorFlow: logistic regression and DeepFM by Adagrad, sparse updates, predict then learn.

The rows are arrays in memory, hashed already. Logistic regression is a step written by hand: gather,
gradient, one fused sparse update. DeepFM's dense part, forward and backward, is compiled by XLA; the
embedding rows it read are updated by the fused sparse operation. Compilation is not timed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import peer

FIELDS, NUMBERS = 26, 13


def adagrad(var, accum, lr, grad):
    tf.raw_ops.ResourceApplyAdagradV2(var=var.handle, accum=accum.handle, lr=lr, epsilon=1e-10, grad=grad)


def sparse_adagrad(var, accum, lr, grad, ids):
    tf.raw_ops.ResourceSparseApplyAdagradV2(
        var=var.handle, accum=accum.handle, lr=lr, epsilon=1e-10, grad=grad, indices=ids
    )


class Logistic:
    """sigmoid(sum of weights by id + numbers · v + b); gradients are summed over the batch."""

    def __init__(self, bits):
        self.w, self.wa = tf.Variable(tf.zeros([1 << bits])), tf.Variable(tf.fill([1 << bits], 0.1))
        self.v, self.va = tf.Variable(tf.zeros([NUMBERS])), tf.Variable(tf.fill([NUMBERS], 1.0))
        self.b, self.ba = tf.Variable(-1.0), tf.Variable(1.0)

    def step(self, y, x, ids):
        rows = tf.gather(self.w, ids)
        p = tf.sigmoid(tf.reduce_sum(rows, 1) + tf.linalg.matvec(x, self.v) + self.b)
        g = p - y
        flat = tf.reshape(tf.tile(g[:, None], [1, FIELDS]), [-1])
        sparse_adagrad(self.w, self.wa, 0.05, flat, tf.reshape(ids, [-1]))
        adagrad(self.v, self.va, 0.02, tf.linalg.matvec(x, g, transpose_a=True))
        adagrad(self.b, self.ba, 0.02, tf.reduce_sum(g))
        return p


class DeepFM:
    """Embeddings of 16 and a linear weight for each id; layers of 256 and 128."""

    def __init__(self, bits, dim=16, hidden=(256, 128)):
        rng = np.random.default_rng(1)
        init = tf.random.stateless_normal([1 << bits, dim + 1], [1, 2], stddev=0.01)
        self.w, self.wa = tf.Variable(init), tf.Variable(tf.fill([1 << bits, dim + 1], 0.1))
        self.dim = dim
        sizes = [FIELDS * dim + NUMBERS, *hidden, 1]
        self.dense = []
        for n, m in zip(sizes[:-1], sizes[1:]):
            self.dense.append(tf.Variable(rng.normal(0, np.sqrt(2 / n), [n, m]).astype(np.float32)))
            self.dense.append(tf.Variable(tf.zeros([m])))
        self.dense += [tf.Variable(tf.zeros([NUMBERS])), tf.Variable(-1.0)]
        self.accums = [tf.Variable(tf.fill(v.shape, 0.1)) for v in self.dense]

    @tf.function(jit_compile=True)
    def gradients(self, y, x, rows, dense):
        with tf.GradientTape() as tape:
            tape.watch([rows, *dense])
            e = rows[:, :, : self.dim]
            total = tf.reduce_sum(e, 1)
            fm = 0.5 * tf.reduce_sum(total * total - tf.reduce_sum(e * e, 1), 1)
            h = tf.concat([tf.reshape(e, [-1, FIELDS * self.dim]), x], 1)
            layers = dense[:-2]
            for i in range(0, len(layers), 2):
                h = h @ layers[i] + layers[i + 1]
                if i + 2 < len(layers):
                    h = tf.nn.relu(h)
            score = h[:, 0] + fm + tf.reduce_sum(rows[:, :, self.dim], 1) + tf.linalg.matvec(x, dense[-2]) + dense[-1]
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, score))
        return tf.sigmoid(score), tape.gradient(loss, [rows, *dense])

    def step(self, y, x, ids):
        rows = tf.gather(self.w, ids)
        p, (grad, *rest) = self.gradients(y, x, rows, [v.value() for v in self.dense])
        n = tf.cast(tf.shape(y)[0], tf.float32)
        # By example, as a batch of one would see it: the mean of a batch all but stops rare ids.
        sparse_adagrad(self.w, self.wa, 0.02, tf.reshape(grad * n, [-1, self.dim + 1]), tf.reshape(ids, [-1]))
        for v, a, g in zip(self.dense, self.accums, rest):
            adagrad(v, a, 0.01, g)
        return p


def main():
    a = peer.arguments(__doc__, "logistic", "deepfm").parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(a.threads)
    tf.config.threading.set_inter_op_parallelism_threads(a.threads)
    y, x, ids = peer.load(a.rows)
    n = len(y) // a.batch * a.batch  # XLA compiles for one shape; less than a batch is left over
    if n == 0:
        raise SystemExit(f"{len(y)} rows are less than a batch of {a.batch}")

    def fresh():
        return Logistic(a.bits) if a.model == "logistic" else DeepFM(a.bits)

    def compiled(model):
        @tf.function
        def several(y, x, ids):
            # Batches in turn inside of one call, so that Python is not in the way.
            count = tf.shape(y)[0] // a.batch
            out = tf.TensorArray(tf.float32, count)
            for i in tf.range(count):
                lo = i * a.batch
                part = [t[lo : lo + a.batch] for t in (y, x, ids)]
                for t in part:
                    t.set_shape([a.batch, *t.shape[1:]])
                out = out.write(i, model.step(*part))
            return out.concat()

        return several

    model = fresh()
    step = compiled(model)
    calls = max(1, 65536 // a.batch) * a.batch

    def call(lo, most=calls):
        hi = min(lo + most, n)
        return step(*(tf.convert_to_tensor(t[lo:hi]) for t in (y, x, ids))).numpy()

    kept = [v for v in vars(model).values() if isinstance(v, tf.Variable)]
    kept += getattr(model, "dense", []) + getattr(model, "accums", [])
    small = [(v, v.numpy()) for v in kept if v.shape.num_elements() < 1 << 20]
    # Compile on some rows, then forget what they taught: the large tables by the rows they touched.
    large = [v for v in kept if v.shape.num_elements() >= 1 << 20]
    touched = np.unique(ids[: min(calls, n)])
    before = [tf.gather(v, touched) for v in large]
    call(0)
    if n % calls:
        call(0, n % calls)  # the shape of the last call
    for v, old in small:
        v.assign(old)
    for v, rows in zip(large, before):
        v.scatter_nd_update(touched[:, None], rows)
    clock = peer.Clock()
    scores = np.concatenate([call(lo) for lo in range(0, n, calls)])
    took = clock.read()
    tail = peer.last_tenth(n)
    peer.say(n, took, peer.auc(scores[tail:], y[tail:n]), threads=a.threads, version=tf.__version__)


if __name__ == "__main__":
    main()
