"""Vowpal Wabbit: logistic regression in one pass, from text or from its cache.

Speed is of a pass that writes no predictions; quality is of a second, identical pass that writes
them, which is not timed: VW is deterministic.
"""

import os
import tempfile

import numpy as np
import vowpalwabbit

import peer


def options(model, bits):
    """How VW is told to learn; the rates were chosen for AUC over the last tenth of a million rows."""
    common = ["--loss_function", "logistic", "-b", str(bits), "--quiet", "--no_stdin"]
    if model == "ftrl":
        return [*common, "--ftrl", "--ftrl_alpha", "0.1", "--ftrl_beta", "1"]
    return [*common, "-l", "0.5", "--power_t", "0.4"]


def run(args):
    """One pass over what args name: VW reads and learns inside of its own loop."""
    vw = vowpalwabbit.Workspace(" ".join(args))
    vw.finish()


def main():
    p = peer.arguments(__doc__, "adaptive", "ftrl")
    p.add_argument("--source", choices=["cache", "text"], default="cache")
    a = p.parse_args()
    os.chdir(a.rows)  # VW splits its command line at spaces, which the folder's name may have
    text, cache = "rows.vw", "rows.cache"
    how = options(a.model, a.bits)
    if a.source == "cache" and not os.path.exists(cache):
        # Made by a pass that is not timed, under another name until it is whole.
        run([*how, "-d", text, "--cache_file", cache + ".part", "-k"])
        os.rename(cache + ".part", cache)
    source = ["-d", text, "--cache_file", cache] if a.source == "cache" else ["-d", text]
    clock = peer.Clock()
    run([*how, *source])
    took = clock.read()
    labels = np.load("labels.npy")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        out = os.path.join(folder, "predictions")
        run([*how, *source, "-p", out])
        scores = np.loadtxt(out, dtype=np.float64, usecols=0)
    n = len(labels)
    if len(scores) != n:
        raise SystemExit(f"VW predicted {len(scores)} of {n} rows")
    tail = peer.last_tenth(n)
    # The learner and, for what it reads, a parser of its own.
    peer.say(n, took, peer.auc(scores[tail:], labels[tail:]), threads=2, version=vowpalwabbit.__version__)


if __name__ == "__main__":
    main()
