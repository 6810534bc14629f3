"""Tables into a topic, each row once.

Its one law: run again, it goes on. Every append carries a key: the input's identity and the number
of the input row after its last one. A run begins by asking each partition for the last key under
that identity and leaves out the rows before it, so that however a run ended, and however the next
one cuts its batches, no row is there twice and none is missing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from .. import columns
from .._loop import Loop
from ..errors import InvalidError, NotFoundError
from . import identity, schema
from .topic import Stream, Topic, check_name

BATCH_ROWS = 4096  # of one append
BATCH_BYTES = 512 << 10  # of one append, encoded
MAX_APPEND = 900 << 10  # bytes that a message may hold


@dataclass(frozen=True)
class Progress:
    """How far a `produce` is."""

    rows: int  # appended by this call
    skipped: int  # found to be there already
    total: int | None  # rows of the input; None when unknown


@dataclass
class Produced:
    """What came of a `produce`."""

    topic: str
    rows: int = 0  # appended by this call
    skipped: int = 0  # found to be there already
    appends: int = 0
    next: list[int] = field(default_factory=list)
    """The offset after this call's last row, for each partition; 0 where it had none."""


@dataclass
class Input:
    """Rows with an identity. `tables` gives them in order, each time in the same one."""

    prefix: str
    tables: Iterator[pa.Table]
    total: int | None


def as_input(data: Any, ident: str | None, key: str | None) -> Input:
    if ident is not None and (not ident or len(ident.encode()) > 512 or any(c in ident for c in "\0\r\n")):
        raise InvalidError("the id is empty, too long or spans lines (use up to 512 bytes in one line)")
    if isinstance(data, (str, Path)):
        return file_input(Path(data), ident, key)
    if isinstance(data, pa.RecordBatchReader):
        data = iter(data)
    if isinstance(data, Iterator):
        if ident is None:
            raise InvalidError("rows that come by an iterator have no identity to go on by (give id=…)")
        return Input(f"{ident}/0", map(columns.to_table, data), None)
    table = columns.to_table(data)
    prefix = f"{ident}/0" if ident is not None else f"table:{identity.of_table(table)}{identity.by(key)}"
    return Input(prefix, iter([table]), len(table))


def file_input(path: Path, ident: str | None, key: str | None) -> Input:
    """Reads a file as `tidemill produce` does: the same bytes are the same input for both."""
    suffix = path.suffix.lower()
    name = {".parquet": "parquet", ".arrow": "arrow", ".ipc": "arrow", ".feather": "arrow"}.get(suffix)
    if name is None:
        raise InvalidError(
            f"{path.name}: a file {suffix or 'without a suffix'} is not read here "
            "(give a .parquet or .arrow file, a table, or use the command `tidemill produce`)"
        )
    try:
        prefix = f"{ident}/0" if ident is not None else identity.of_file(path, name, key)
        if name == "parquet":
            f = pyarrow.parquet.ParquetFile(path)
            batches: Iterable[Any] = f.iter_batches(batch_size=65_536)
            total = f.metadata.num_rows
        else:
            batches, total = arrow_batches(path), None
    except FileNotFoundError as e:
        raise NotFoundError(f"file {path.name}: not found") from e
    except (OSError, pa.ArrowInvalid) as e:
        raise InvalidError(f"{path.name} cannot be read: {e}") from e
    return Input(prefix, map(columns.to_table, batches), total)


def arrow_batches(path: Path) -> Iterable[Any]:
    source = pa.memory_map(str(path))
    try:
        f = pyarrow.ipc.open_file(source)
        return (f.get_batch(i) for i in range(f.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        batches: Iterable[Any] = pyarrow.ipc.open_stream(source)
        return batches


class Bar:
    """A line on the terminal that says how far it is."""

    def __init__(self, topic: str) -> None:
        self.topic, self.began, self.last, self.shown = topic, time.monotonic(), 0.0, False

    def __call__(self, p: Progress) -> None:
        now = time.monotonic()
        if now - self.last < 0.1:
            return
        self.last, self.shown = now, True
        part = f" of {p.total:,}" if p.total else ""
        rate = int(p.rows / max(now - self.began, 1e-9))
        sys.stderr.write(f"\r{self.topic}: {p.rows + p.skipped:,}{part} rows, {rate:,}/s\x1b[K")
        sys.stderr.flush()

    def done(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Run:
    """A produce under way, driven from the caller's thread."""

    def __init__(self, loop: Loop, stream: Stream, name: str, source: Input, partitions: int, key: str | None) -> None:
        check_name(name)
        if not 0 <= partitions <= 1024:
            raise InvalidError(f"topic {name!r}: {partitions} partitions (use 1 to 1024)")
        self.loop, self.stream, self.name, self.input = loop, stream, name, source
        self.partitions, self.key = partitions, key
        self.result = Produced(name)
        self.topic: Topic | None = None
        self.begun = False
        self.prefix = source.prefix
        self.frm: list[int] = []

    def run(self, progress: Callable[[Progress], None] | None) -> Produced:
        first = 0
        for table in self.input.tables:
            t = self.loop.run(self.opened(table.schema))
            fitted = columns.fit(table, t.schema, self.name)
            self.loop.run(self.prepare(t, fitted.schema))
            step = BATCH_ROWS * max(1, len(self.frm))
            for at in range(0, len(fitted), step):
                self.loop.run(self.put(t, fitted.slice(at, step), first + at))
                if progress is not None:
                    progress(Progress(self.result.rows, self.result.skipped, self.input.total))
            first += len(table)
        return self.result

    async def opened(self, rows: pa.Schema) -> Topic:
        """Opens the topic, or makes it with these columns."""
        if len(rows) == 0:
            schema.check(rows)
        if self.key is not None and self.key not in rows.names:
            raise InvalidError(f"there is no key column {self.key!r} (name one of {', '.join(rows.names)})")
        if self.topic is None and await self.stream.has_bucket():
            self.topic = await self.stream.open(self.name)
        if self.topic is None:
            schema.check(rows)
            self.topic = await self.stream.create(self.name, self.partitions, schema.bare(rows))
        return self.topic

    async def prepare(self, t: Topic, rows: pa.Schema) -> None:
        """Adds the columns that the topic lacks, and asks how far the input is."""
        r = t.record
        if self.partitions and r.usable() != self.partitions:
            raise InvalidError(
                f"topic {self.name!r} has {r.usable()} partitions, not {self.partitions} (keep its number, or "
                f"raise it with `tidemill topic {self.name} --partitions {self.partitions}`)"
            )
        new = schema.grown(t.schema, rows)
        if len(new) > len(t.schema):
            schema.check(new)
            await t.evolve(rows)
        if not self.begun:
            await self.resume(t)
            self.begun = True

    async def resume(self, t: Topic) -> None:
        """Asks each partition how far the input is there. An input that was begun before the topic
        grew goes on over as many partitions as it was begun with."""
        sizes = [*t.record.former, t.record.partitions]
        if t.record.state == "growing" and t.record.former:
            sizes.pop()
        for i in range(len(sizes) - 1, -1, -1):
            self.prefix = self.input.prefix if i == 0 else f"{self.input.prefix}:of={sizes[i]}"
            self.frm = [await t.last_key(p, self.prefix) for p in range(sizes[i])]
            if any(self.frm):
                break
        else:
            self.frm = [0] * sizes[-1]
            self.prefix = self.input.prefix if len(sizes) == 1 else f"{self.input.prefix}:of={sizes[-1]}"
        self.result.next = [0] * sizes[-1]

    def deal(self, table: pa.Table, first: int) -> npt.NDArray[np.int64]:
        """Returns the partition of each row."""
        n = len(self.frm)
        if self.key is None:
            return (np.arange(first, first + len(table), dtype=np.int64)) % n
        hashes = identity.key_hashes(self.key, table.column(self.key))
        return np.asarray(hashes % np.uint64(n), dtype=np.int64)

    async def put(self, t: Topic, table: pa.Table, first: int) -> None:
        """Appends the rows of a table whose first one has input index `first`."""
        of = self.deal(table, first)
        index = np.arange(len(table), dtype=np.int64)
        tasks = [asyncio.ensure_future(self.part(t, p, table, first, index[of == p])) for p in range(len(self.frm))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def part(self, t: Topic, p: int, table: pa.Table, first: int, mine: npt.NDArray[np.int64]) -> None:
        while True:
            left = mine[mine + first >= self.frm[p]]
            self.result.skipped += len(mine) - len(left)
            mine = left
            if not len(mine):
                return
            n = min(len(mine), BATCH_ROWS)
            piece = table.take(pa.array(mine[:n])) if n < len(table) else table
            schema_now, fp = t.schema, t.print
            aligned = schema.align(piece, schema_now, self.name)
            n, body = encoded(aligned)
            number = first + int(mine[n - 1]) + 1
            if t.print != fp:
                continue
            next_ = await t.append(p, n, body, self.prefix, number, self.frm[p], 60.0)
            if next_ is None:
                # Another run of the same input is at work: see how far it is.
                self.frm[p] = await t.last_key(p, self.prefix)
                continue
            self.frm[p] = number
            self.result.appends += 1
            self.result.rows += n
            self.result.next[p] = max(self.result.next[p], next_)
            mine = mine[n:]


def encoded(table: pa.Table) -> tuple[int, bytes]:
    """Returns how many of the first rows fit one append, and them as one Arrow message."""
    n = len(table)
    while True:
        part = table.slice(0, n).combine_chunks()
        arrays = [c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in part.columns]
        body = bytes(pa.RecordBatch.from_arrays(arrays, schema=table.schema).serialize())
        if len(body) <= BATCH_BYTES or (n == 1 and len(body) <= MAX_APPEND):
            return n, body
        if n == 1:
            raise InvalidError(f"one row takes {len(body)} bytes, more than {MAX_APPEND} (leave out what is large)")
        n = max(1, min(n - 1, n * BATCH_BYTES // len(body)))
