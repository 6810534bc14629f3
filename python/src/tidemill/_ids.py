"""The 64-bit ids of features' values, and the rows that ids have before they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from .errors import InvalidError

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """The finaliser of SplitMix64."""
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def id_of(feature: str, value: Any, buckets: int = 0) -> int:
    """Returns the 64-bit id of a value of a hashed feature."""
    seed = xxhash.xxh3_64_intdigest(feature.encode())
    if isinstance(value, str):
        h = xxhash.xxh3_64_intdigest(value.encode(), seed)
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        h = mix(seed + int(value) * GOLDEN & MASK)
    else:
        raise InvalidError(f"{value!r} is no value of a feature with ids (give whole numbers or text)")
    return mix(seed + (h * buckets >> 64) * GOLDEN & MASK) if buckets else h


def name_hash(name: str) -> int:
    """64-bit FNV-1a, mixed: what tables are known by."""
    h = 14695981039346656037
    for c in name.encode():
        h = (h ^ c) * 1099511628211 & MASK
    return mix(h)


def first_row(begin: Mapping[str, Any], dim: int, seed: int, table: str, row: int) -> npt.NDArray[np.float32]:
    """Returns the row that an id has before it is trained."""
    kind, scale = begin["kind"], np.float32(begin.get("scale", 0))
    if kind in ("zero", "constant"):
        return np.full(dim, scale if kind == "constant" else 0, np.float32)
    key = mix(seed ^ 0x6A09E667F3BCC909) ^ name_hash(table) ^ mix(row + GOLDEN & MASK)
    out = np.empty(dim, np.float32)
    for k in range(dim):
        u = mix(key + k * GOLDEN & MASK)
        if kind == "uniform":
            out[k] = scale * np.float32((u >> 11) / (1 << 52) - 1)
        else:  # Box–Muller from two halves
            r, a = ((u >> 32) + 0.5) / (1 << 32), (u & 0xFFFFFFFF) / (1 << 32)
            out[k] = scale * np.float32(np.sqrt(-2 * np.log(r)) * np.cos(2 * np.pi * a))
    return out
