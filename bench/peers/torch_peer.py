"""PyTorch: DeepFM and logistic regression by Adagrad, sparse updates, predict then learn.

The rows are arrays in memory, hashed already. The dense part, forward and backward, is compiled by
torch.compile; the rows that a batch read are updated in place. Compilation is not timed.
"""

import numpy as np
import torch

import peer

FIELDS, NUMBERS = 26, 13


def sparse_adagrad(w, accum, lr, grad, ids):
    """Adds each occurrence's square to its accumulator, then moves its row."""
    # With an expanded index scatter_add_ goes row by row in parallel, which index_add_ does not.
    index = ids if grad.dim() == 1 else ids[:, None].expand_as(grad)
    accum.scatter_add_(0, index, grad * grad)
    w.scatter_add_(0, index, grad * (-lr) / (accum[ids].sqrt() + 1e-10))


def adagrad(v, accum, lr):
    accum.addcmul_(v.grad, v.grad)
    v.data.addcdiv_(v.grad, accum.sqrt().add_(1e-10), value=-lr)
    v.grad = None


class Logistic:
    def __init__(self, bits):
        self.w, self.wa = torch.zeros(1 << bits), torch.full((1 << bits,), 0.1)
        self.v, self.va = torch.zeros(NUMBERS), torch.ones(NUMBERS)
        self.b, self.ba = torch.tensor(-1.0), torch.tensor(1.0)

    def step(self, y, x, ids):
        flat = ids.reshape(-1)
        p = torch.sigmoid(self.w[flat].view(-1, FIELDS).sum(1) + x @ self.v + self.b)
        g = p - y
        sparse_adagrad(self.w, self.wa, 0.05, g.repeat_interleave(FIELDS), flat)
        for v, a, d in ((self.v, self.va, g @ x), (self.b, self.ba, g.sum())):
            a += d * d
            v -= 0.02 * d / (a.sqrt() + 1e-10)
        return p


DIM, HIDDEN = 16, (256, 128)


def loss(y, x, rows, *dense):
    """Mean log loss and predictions; rows are [batch, field, DIM + 1], the last a linear weight."""
    e = rows[:, :, :DIM]
    total = e.sum(1)
    fm = 0.5 * (total * total - (e * e).sum(1)).sum(1)
    h = torch.cat([e.reshape(-1, FIELDS * DIM), x], 1)
    layers = dense[:-2]
    for i in range(0, len(layers), 2):
        h = torch.addmm(layers[i + 1], h, layers[i])
        if i + 2 < len(layers):
            h = torch.relu(h)
    score = h[:, 0] + fm + rows[:, :, DIM].sum(1) + x @ dense[-2] + dense[-1]
    return torch.nn.functional.binary_cross_entropy_with_logits(score, y), torch.sigmoid(score)


compiled = torch.compile(loss)


class DeepFM:
    def __init__(self, bits):
        torch.manual_seed(1)
        self.w, self.wa = torch.randn(1 << bits, DIM + 1) * 0.01, torch.full((1 << bits, DIM + 1), 0.1)
        sizes = [FIELDS * DIM + NUMBERS, *HIDDEN, 1]
        self.dense = []
        for n, m in zip(sizes[:-1], sizes[1:]):
            self.dense += [torch.randn(n, m) * (2 / n) ** 0.5, torch.zeros(m)]
        self.dense += [torch.zeros(NUMBERS), torch.tensor(-1.0)]
        for v in self.dense:
            v.requires_grad_()
        self.accums = [torch.full_like(v, 0.1) for v in self.dense]

    def step(self, y, x, ids):
        flat = ids.reshape(-1)
        rows = self.w[flat].view(-1, FIELDS, DIM + 1).requires_grad_()
        mean, p = compiled(y, x, rows, *self.dense)
        mean.backward()
        with torch.no_grad():
            # By example, as a batch of one would see it: the mean of a batch all but stops rare ids.
            sparse_adagrad(self.w, self.wa, 0.02, rows.grad.view(-1, DIM + 1) * len(y), flat)
            for v, a in zip(self.dense, self.accums):
                adagrad(v, a, 0.01)
        return p.detach()


def main():
    a = peer.arguments(__doc__, "deepfm", "logistic").parse_args()
    torch.set_num_threads(a.threads)
    y, x, ids = (torch.from_numpy(t) for t in peer.load(a.rows))
    ids = ids.long()  # what scatter_add_ takes
    n = len(y) // a.batch * a.batch  # one shape, so that it is compiled once
    if n == 0:
        raise SystemExit(f"{len(y)} rows are less than a batch of {a.batch}")

    def make():
        return Logistic(a.bits) if a.model == "logistic" else DeepFM(a.bits)

    def train(model, lo, hi):
        out = []
        for i in range(lo, hi, a.batch):
            out.append(model.step(y[i : i + a.batch], x[i : i + a.batch], ids[i : i + a.batch]))
        return torch.cat(out).numpy()

    if a.model == "deepfm":
        train(make(), 0, min(n, 2 * a.batch))  # compiles
    else:
        torch.set_grad_enabled(False)
    model = make()
    clock = peer.Clock()
    scores = train(model, 0, n)
    took = clock.read()
    tail = peer.last_tenth(n)
    peer.say(n, took, peer.auc(np.asarray(scores)[tail:], y.numpy()[tail:n]), threads=a.threads, version=torch.__version__)


if __name__ == "__main__":
    main()
