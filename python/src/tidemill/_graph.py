"""Graph files on their way to the trainer, in parts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import ConflictError, InvalidError, Problem, UnavailableError
from .spec import Document, JobSpec, Spec

PART = 1 << 20  # bytes, as the trainer takes them
LIMIT = 512 << 20

Command = Callable[..., Any]


def graph_of(command: Command, spec: Spec, doc: Document, folder: Path) -> str:
    """Sends the graph file that a spec names, and returns how a submission names it; "" where the spec names none. Its path
    is relative to `folder`."""
    if isinstance(spec, str):
        if "graph" not in spec:
            return ""
        file = command("needs", yaml=doc.text, file=doc.file).get("graph", "")
    else:
        whole = spec.to_dict() if isinstance(spec, JobSpec) else spec
        architecture = whole.get("architecture")
        file = architecture.get("file", "") if isinstance(architecture, Mapping) and architecture.get("kind") == "graph" else ""
    if not file or not isinstance(file, str):
        return ""  # what is wrong with it, the server says
    path = folder / file
    try:
        if path.is_dir():
            raise bad(f"{file} is a folder, such as a SavedModel is (make a graph file with tidemill.keras.export)")
        if path.stat().st_size > LIMIT:
            raise bad(f"{file} has more than {LIMIT >> 20} MiB")
        data = path.read_bytes()
    except OSError as e:
        raise bad(f"graph file {file}: {e.strerror} (make it with tidemill.keras.export)") from e
    return upload(command, data, file)


def bad(text: str) -> InvalidError:
    return InvalidError(f"architecture.file: {text}", [Problem(text, "architecture.file")])


def upload(command: Command, data: bytes, file: str) -> str:
    """Has the trainer store a graph file, unless it has it, and returns its name."""
    graph = hashlib.sha256(data).hexdigest()
    if command("upload", graph=graph)["done"]:
        return graph
    parts = max(1, -(-len(data) // PART))
    for _ in range(4):
        try:
            for k in range(parts):
                piece = base64.b64encode(data[k * PART : (k + 1) * PART]).decode()
                if command("upload", graph=graph, file=file, part=str(k), parts=str(parts), data=piece)["done"]:
                    return graph
        except ConflictError:  # another trainer leads by now, and has none of it
            continue
    raise UnavailableError(f"graph file {file} was sent, and the trainer does not have it (try again)")
