"""Snapshots from a store in a directory: docs/format/snapshot.md."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import xxhash

from .errors import CorruptError, InvalidError, NotFoundError

FORMATS = (1, 2)  # of manifests
BEGIN = b'{"checksum":"'
MASK = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A job's state as of a cut: exactly the effect of all examples before it, of none after."""

    job: str
    number: int
    model: str
    cut: tuple[int, ...]
    examples: int
    digest: str
    spec: Mapping[str, Any]
    tables: Mapping[str, pa.Table]
    """By name: `id` uint64 ascending, `weight` fixed_size_list<float>, and `state`, `average` and
    `average_at` where the optimizer has them."""
    weights: Mapping[str, npt.NDArray[np.float32]]
    """Dense tensors by name, in their shape."""
    averages: Mapping[str, npt.NDArray[np.float32]]
    """The same of their averages; empty where averaging is off."""
    aux: Mapping[str, bytes]
    """What else the job keeps, by name (`transforms`, `progress`, …); of the home shard where
    several have one."""
    manifest: Mapping[str, Any] = field(repr=False)
    blocks: Sequence[Mapping[str, Any]] = field(repr=False)
    aux_all: Sequence[tuple[str, bytes]] = field(repr=False)

    def table_weights(self, name: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """Returns a table's ids, `[rows]`, and weights, `[rows, dim]`."""
        t = self.tables[name]
        return row_ids(t), matrix(t, "weight")

    def compute_digest(self) -> str:
        """Computes the digest from the rows, to compare with `digest`. It takes about 2 µs a row."""
        total = 0
        for name, t in self.tables.items():
            total += digest_rows(name, t)
        for b in self.blocks:
            total += digest_block(b)
        for name, data in self.aux_all:
            if name == "transforms":
                head = struct.pack("<QQ", 3, len(name)) + name.encode()
                total += xxhash.xxh3_128_intdigest(head + data)
        return f"{total % (1 << 128):032x}"


def load_snapshot(path: Any, *, job: str = "", number: int | None = None, savepoint: str = "") -> Snapshot:
    """Reads a snapshot. `path` is a node's data directory, a store's directory, or the folder of one
    snapshot, `…/jobs/JOB/snapshot/NNNNNNNNN`. Without a number or a savepoint's label it is the
    newest one; `job` is needed where the store holds several. Size and SHA-256 of everything are
    verified before any of it is used; what does not match is a CorruptError."""
    given = Path(path)
    root, named = find_store(given)
    if named is not None:
        if job or number is not None or savepoint:
            raise InvalidError(f"{given.name} is one snapshot already (leave job, number and savepoint out)")
        job, number = named
    jobs = sorted(p.name for p in (root / "jobs").iterdir()) if (root / "jobs").is_dir() else []
    if not job:
        if len(jobs) != 1:
            raise NotFoundError(
                "the store holds no jobs: not found"
                if not jobs
                else f"the store holds jobs {', '.join(jobs)} (say which by job=…)"
            )
        job = jobs[0]
    if job not in jobs:
        raise NotFoundError(f"no job {job!r} in the store: not found" + (f" (there are: {', '.join(jobs)})" if jobs else ""))
    folder = root / "jobs" / job
    if savepoint:
        record = folder / "savepoint" / f"{savepoint}.json"
        if not record.exists():
            raise NotFoundError(f"job {job!r} has no savepoint {savepoint!r}: not found")
        number = int(read_record(record, "savepoint")["snapshot"])
    if number is not None:
        m = manifest(folder, job, number)
        if m.get("fence"):
            raise NotFoundError(f"number {number} of job {job!r} is no snapshot, it only fences a former leader: not found")
        return assemble(root, m)
    while True:
        m = newest(folder, job)
        try:
            return assemble(root, m)
        except CorruptError:
            # A node at work may have let it go meanwhile, for a newer one.
            if newest(folder, job)["number"] == m["number"]:
                raise


def find_store(path: Path) -> tuple[Path, tuple[str, int] | None]:
    """Returns a store's directory, and the job and number where path is one snapshot."""
    for d in (path, path / "store"):
        if (d / "jobs").is_dir() or (d / "FORMAT").exists() or (d / "models").is_dir():
            fmt = d / "FORMAT"
            if fmt.exists() and fmt.read_text().strip() != "1":
                raise InvalidError(f"the store has format {fmt.read_text().strip()[:20]!r} and this package reads 1 (upgrade it)")
            return d, None
    p = path.resolve()
    if p.is_dir() and p.name.isdigit() and p.parent.name == "snapshot":
        return p.parent.parent.parent.parent, (p.parent.parent.name, int(p.name))
    if not path.exists():
        raise NotFoundError(f"{path.name}: not found")
    raise InvalidError(f"there is no store in {path.name!r} (name a node's data directory, its folder store, or a snapshot's)")


def read_record(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object whose first member is the SHA-256 of what follows it."""
    data = path.read_bytes()
    start = len(BEGIN)
    digits = data[start : start + 64]
    rest = data[start + 65 :]
    if not data.startswith(BEGIN) or data[start + 64 : start + 65] != b'"':
        raise CorruptError(f"{what}: corrupt: it does not begin with its checksum")
    if hashlib.sha256(rest).hexdigest().encode() != digits:
        raise CorruptError(f"{what}: corrupt: it does not match its checksum")
    out: dict[str, Any] = json.loads(data)
    return out


def manifest(folder: Path, job: str, number: int) -> dict[str, Any]:
    path = folder / "snapshot" / f"{number:09d}" / "manifest.json"
    if not path.exists():
        raise NotFoundError(f"job {job!r} has no snapshot {number}: not found")
    m = read_record(path, f"manifest of snapshot {number} of job {job!r}")
    if m.get("format") not in FORMATS:
        raise InvalidError(
            f"snapshot {number} of job {job!r} has format {m.get('format')}, and this package reads 1 and 2 (upgrade it)"
        )
    return m


def newest(folder: Path, job: str) -> dict[str, Any]:
    d = folder / "snapshot"
    numbers = sorted((int(p.name) for p in d.iterdir() if re.fullmatch(r"\d{9,}", p.name)), reverse=True) if d.is_dir() else []
    for n in numbers:
        if (d / f"{n:09d}" / "manifest.json").exists():
            m = manifest(folder, job, n)
            if not m.get("fence"):
                return m
    raise NotFoundError(f"job {job!r} has no snapshot yet: not found")


def read_blob(root: Path, blob: Mapping[str, Any]) -> pa.Table:
    """Reads an Arrow file after its size and SHA-256 were compared."""
    name = blob["name"]
    parts = name.split("/")
    if any(p in ("", ".", "..") for p in parts) or "\\" in name:
        raise CorruptError(f"corrupt: a blob is named {name!r}")
    path = root.joinpath(*parts)
    try:
        data = path.read_bytes()
    except FileNotFoundError as e:
        raise CorruptError(f"{parts[-1]} is missing: corrupt") from e
    if len(data) != blob["bytes"] or hashlib.sha256(data).hexdigest() != blob["sha256"]:
        raise CorruptError(f"{parts[-1]}: corrupt: it does not match its checksum")
    try:
        return pyarrow.ipc.open_file(pa.BufferReader(data)).read_all()
    except pa.ArrowInvalid as e:
        raise CorruptError(f"{parts[-1]}: corrupt: {e}") from e


def assemble(root: Path, m: Mapping[str, Any]) -> Snapshot:
    layout = m["layout"]
    layers: dict[str, list[tuple[str, pa.Table, bool]]] = {t["name"]: [] for t in layout.get("tables") or ()}
    names = [t["name"] for t in layout.get("tables") or ()]
    dense: list[pa.Table] = []
    aux: list[tuple[int, str, bytes]] = []
    for part in m.get("parts") or ():
        for blob in part.get("blobs") or ():
            t = read_blob(root, blob)
            kind = blob["kind"]
            if "shards" in blob and blob["shards"] is not None:
                # A file can hold rows of shards that its entry does not list: written whole since.
                t = t.filter(pc.is_in(t["shard"], value_set=pa.array(blob["shards"], pa.uint16())))
            if kind in ("table", "removed"):
                layers[blob_table(blob, names)].append((blob["name"], t, kind == "removed"))
            elif kind == "dense":
                dense.append(t)
            elif kind == "aux":
                aux += zip(t["shard"].to_pylist(), t["name"].to_pylist(), t["bytes"].to_pylist(), strict=True)
            else:
                raise CorruptError(f"corrupt: a blob is of kind {kind!r}")
    tables = {n: merge(layers[n], spec) for n, spec in zip(names, layout.get("tables") or (), strict=True)}
    tensors = {t["name"]: t for t in layout.get("tensors") or ()}
    blocks = [row for t in dense for row in t.to_batches() for row in rows_of(row)]
    aux.sort()
    return Snapshot(
        job=m["job"],
        number=m["number"],
        model=m.get("model", ""),
        cut=tuple(m.get("cut") or ()),
        examples=m.get("examples", 0),
        digest=m["digest"],
        spec=m.get("spec") or {},
        tables=tables,
        weights={n: tensor(blocks, t, "weight") for n, t in tensors.items()},
        averages={n: tensor(blocks, t, "average") for n, t in tensors.items() if t.get("average")},
        aux={name: data for _, name, data in aux},
        manifest=m,
        blocks=blocks,
        aux_all=[(name, data) for _, name, data in aux],
    )


def blob_table(blob: Mapping[str, Any], names: Sequence[str]) -> str:
    table = blob.get("table", 0)
    if isinstance(table, str):
        name = table
    elif isinstance(table, int) and 0 <= table < len(names):
        name = names[table]
    else:
        name = ""
    if name not in names:
        raise CorruptError(f"corrupt: a blob is of table {table!r}, which the layout does not have")
    return name


def merge(layers: Sequence[tuple[str, pa.Table, bool]], spec: Mapping[str, Any]) -> pa.Table:
    """Puts a table's layers on top of each other, the oldest first: of a row that several have, the
    last one counts, and a removal takes it away."""
    dim, state = int(spec["dim"]), int(spec.get("state", 0))
    fields = [pa.field("id", pa.uint64()), pa.field("weight", pa.list_(pa.float32(), dim))]
    if state:
        fields.append(pa.field("state", pa.list_(pa.float32(), state)))
    if spec.get("average"):
        fields += [pa.field("average", pa.list_(pa.float32(), dim)), pa.field("average_at", pa.uint64())]
    schema = pa.schema(fields)
    parts, ids, gone = [], [], []
    for _, t, removed in sorted(layers, key=lambda layer: layer[0]):
        ids.append(row_ids(t))
        gone.append(np.full(len(t), removed))
        if not removed:
            parts.append(t.select([f.name for f in schema]).cast(schema))
    whole = pa.concat_tables(parts).combine_chunks() if parts else schema.empty_table()
    if not ids:
        return whole
    every, dead = np.concatenate(ids), np.concatenate(gone)
    # Where each row lies in `whole`; removals lie nowhere.
    place = np.where(dead, -1, np.cumsum(~dead) - 1)
    order = np.lexsort((np.arange(len(every)), every))
    last = np.ones(len(every), dtype=bool)
    last[:-1] = every[order][1:] != every[order][:-1]
    kept = place[order[last]]
    at = kept[kept >= 0]
    return whole.take(pa.array(at)).combine_chunks()


def row_ids(t: pa.Table) -> npt.NDArray[np.uint64]:
    out: npt.NDArray[np.uint64] = t["id"].to_numpy().astype(np.uint64, copy=False)
    return out


def matrix(t: pa.Table, column: str) -> npt.NDArray[np.float32]:
    """Returns a fixed-size list column as `[rows, size]`."""
    size = t.schema.field(column).type.list_size
    if len(t) == 0:
        return np.zeros((0, size), dtype=np.float32)
    flat = pc.list_flatten(t[column]).to_numpy().astype(np.float32, copy=False)
    out: npt.NDArray[np.float32] = flat.reshape(len(t), size)
    return out


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    out = []
    for i in range(batch.num_rows):
        row: dict[str, Any] = {n: batch.column(n)[i].as_py() for n in ("shard", "tensor", "block", "first", "average_at")}
        for n in ("weight", "state", "average"):
            row[n] = batch.column(n)[i].values.to_numpy().astype(np.float32, copy=False)
        out.append(row)
    return out


def tensor(blocks: Sequence[Mapping[str, Any]], spec: Mapping[str, Any], column: str) -> npt.NDArray[np.float32]:
    """Puts the blocks of a dense tensor together."""
    shape = tuple(int(n) for n in spec["shape"])
    out = np.full(int(np.prod(shape)), np.nan, dtype=np.float32)
    have = 0
    for b in blocks:
        if b["tensor"] == spec["name"]:
            values = b[column]
            out[b["first"] : b["first"] + len(values)] = values
            have += len(values)
    if have != len(out):
        raise CorruptError(f"tensor {spec['name']!r} has {have} of {len(out)} values: corrupt")
    return out.reshape(shape)


def name_hash(name: str) -> int:
    """64-bit FNV-1a, finished by the mixer of SplitMix64."""
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & MASK
    return h ^ (h >> 31)


def digest_rows(name: str, t: pa.Table) -> int:
    n = len(t)
    head = np.empty((n, 3), dtype="<u8")
    head[:, 0], head[:, 1], head[:, 2] = 1, name_hash(name), row_ids(t)
    parts = [head.view("<u4")]
    for column in ("weight", "state", "average"):
        if column in t.column_names:
            parts.append(np.ascontiguousarray(matrix(t, column)).astype("<f4", copy=False).view("<u4"))
    if "average_at" in t.column_names:
        at = np.ascontiguousarray(t["average_at"].to_numpy().astype("<u8")).reshape(n, 1)
        parts.append(at.view("<u4"))
    every = np.ascontiguousarray(np.concatenate(parts, axis=1))
    size, raw = every.shape[1] * 4, memoryview(every.tobytes())
    return sum(xxhash.xxh3_128_intdigest(raw[i * size : (i + 1) * size]) for i in range(n))


def digest_block(b: Mapping[str, Any]) -> int:
    h = xxhash.xxh3_128(struct.pack("<QQQQ", 2, name_hash(b["tensor"]), b["block"], b["average_at"]))
    for column in ("weight", "state", "average"):
        values = b[column]
        h.update(struct.pack("<Q", len(values)))
        h.update(np.ascontiguousarray(values).astype("<f4", copy=False).tobytes())
    return int(h.intdigest())
