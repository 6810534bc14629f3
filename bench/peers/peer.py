"""What the peers have in common: the rows, the measure of quality, and how a result is said.

The rows are files that `tidemill bench peers` writes: labels.npy [n] float32 of 0 and 1, numbers.npy
[n, 13] float32, ids.npy [n, 26] int32, hashed to 2^bits by the same function as Tidemill's own.
"""

import argparse
import json
import os
import resource
import sys
import time

import numpy as np


def arguments(about, *models):
    """The command line that every peer understands."""
    p = argparse.ArgumentParser(description=about)
    p.add_argument("--rows", required=True, help="folder with the rows")
    p.add_argument("--model", choices=models, default=models[0])
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--bits", type=int, default=22, help="ids lie below 2**bits")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    return p


def load(folder, in_memory=True):
    """Labels, numbers and ids as arrays in memory."""
    names = ("labels", "numbers", "ids")
    return [np.load(os.path.join(folder, n + ".npy"), mmap_mode=None if in_memory else "r") for n in names]


def auc(scores, labels):
    """The probability that a positive scores above a negative, ties counting half."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels) > 0.5
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    # The mean rank of equal scores, 1-based.
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[first, len(ranked)])
    ranks = np.repeat(first + (sizes + 1) / 2, sizes)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return None
    return float((ranks[labels[order]].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def last_tenth(n):
    """The row that the last tenth begins with."""
    return n - n // 10


class Clock:
    """Wall and processor time from its making on."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self):
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


def say(rows, clock, quality, **more):
    """Prints the result as one line of JSON. clock is what Clock.read returned."""
    seconds, cpu = clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "rows": rows,
                "seconds": seconds,
                "rows_per_second": rows / seconds,
                "cpu_seconds": cpu,
                "max_rss_bytes": peak if sys.platform == "darwin" else peak * 1024,
                "quality": quality,
                "quality_metric": "AUC over the last tenth",
                **more,
            }
        )
    )
