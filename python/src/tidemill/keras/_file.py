"""The bytes of a graph file: docs/format/graph.md."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = 1
LIMIT = 512 << 20


def parameters(values: Sequence[npt.NDArray[np.float32]]) -> bytes:
    """Returns the part parameters.bin."""
    return b"".join(np.ascontiguousarray(v, "<f4").tobytes() for v in values)


def pack(manifest: dict[str, Any], parts: dict[str, bytes]) -> bytes:
    """Returns a graph file. The manifest gets its members `format` and `parts` here."""
    listed = [{"name": n, "bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in parts.items()]
    head = {"format": FORMAT, **manifest, "parts": listed}
    entries = {"manifest.json": json.dumps(head, ensure_ascii=True, allow_nan=False, indent=1).encode(), **parts}
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the same model gives the same bytes
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return sink.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the manifest and the parts of what `pack` wrote."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    manifest: dict[str, Any] = json.loads(parts.pop("manifest.json"))
    return manifest, parts


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file at once: a reader sees the old one or the new one."""
    target = pathlib.Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
