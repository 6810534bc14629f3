"""Topics on JetStream, by the rules of docs/format/stream-message.md: the next offset is read
from the last message, and an append is published on the condition that it still is the last one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import nats
import nats.errors
import pyarrow as pa
import xxhash

from ..errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    FullError,
    InvalidError,
    NotFoundError,
    TidemillError,
    UnavailableError,
)
from . import schema as schemas
from .frame import Frame, parse, parse_key

T = TypeVar("T")

BUCKET = "TIDEMILL_TOPICS"
KV_STREAM = "KV_" + BUCKET
ATTEMPT = 5.0  # seconds of one request before it is tried again
FIRST_RESERVE, LEAST_RESERVE, MOST_STEP = 16 << 20, 64 << 10, 512 << 20  # bytes of a partition
MESSAGE_BYTES = 2 << 20  # more than any message with its subject and headers takes

WRONG_LAST = {10071, 10164}
FULL = {10002, 10023, 10047}
STORE_FAILED = 10077
NOT_FOUND, STREAM_NOT_FOUND, STREAM_IN_USE = 10037, 10059, 10058


class ApiError(Exception):
    """What JetStream answered instead of what was asked."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def full(self) -> bool:
        text = str(self)
        return self.code in FULL or (self.code == STORE_FAILED and ("maximum bytes" in text or "no space left" in text))


class TransientError(Exception):
    """The request may work when it is tried again, and may have worked."""


@dataclass
class Record:
    """A topic's record. It changes by compare-and-set alone."""

    identity: str
    partitions: int
    state: str
    schemas: list[dict[str, str]]
    former: list[int] = field(default_factory=list)
    floor: list[int] = field(default_factory=list)
    revision: int = 0

    @classmethod
    def read(cls, topic: str, data: bytes, revision: int) -> Record:
        try:
            o = json.loads(data)
            r = cls(
                o["identity"],
                o["partitions"],
                o["state"],
                o["schemas"],
                o.get("former") or [],
                o.get("floor") or [],
                revision,
            )
            if r.partitions < 1 or not r.identity or not r.schemas:
                raise ValueError
        except (ValueError, KeyError, TypeError) as e:
            raise CorruptError(f"the record of topic {topic!r} cannot be read: corrupt") from e
        return r

    def write(self) -> bytes:
        o: dict[str, Any] = {"identity": self.identity, "partitions": self.partitions}
        if self.former:
            o["former"] = self.former
        o |= {"state": self.state, "schemas": self.schemas}
        if self.floor:
            o["floor"] = self.floor
        return json.dumps(o).encode()

    def schema(self) -> tuple[pa.Schema, int]:
        """Returns the current schema and its fingerprint."""
        last = self.schemas[-1]
        return schemas.decode(base64.b64decode(last["schema"])), int(last["fingerprint"], 16)

    def add(self, schema: pa.Schema) -> None:
        self.schemas.append(
            {
                "fingerprint": f"{schemas.fingerprint(schema):016x}",
                "schema": base64.b64encode(schemas.encode(schema)).decode(),
            }
        )

    def usable(self) -> int:
        """Returns how many partitions exist."""
        return self.former[-1] if self.state == "growing" and self.former else self.partitions


def escape(name: str) -> str:
    return name.replace(".", "=")


def check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) or name in (".", ".."):
        raise InvalidError(f"the topic name {name!r} is none (use 1 to 128 characters of A-Z a-z 0-9 _ . -)")


def token(prefix: str) -> str:
    """Returns the last part of the subject of messages whose keys have this prefix."""
    return base64.urlsafe_b64encode(xxhash.xxh3_64_digest(prefix.encode())).rstrip(b"=").decode()


@dataclass
class Stored:
    """A message as it lies in a partition."""

    seq: int
    frame: Frame


class Stream:
    """A connection to the stream. It belongs to one event loop."""

    def __init__(self, nc: Any, url: str) -> None:
        self.nc, self.url = nc, url

    async def call(self, subject: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Asks JetStream once."""
        data = b"" if request is None else json.dumps(request).encode()
        return await self.send("$JS.API." + subject, data, None)

    async def send(self, subject: str, data: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
        try:
            msg = await self.nc.request(subject, data, timeout=ATTEMPT, headers=headers)
        except (nats.errors.Error, asyncio.TimeoutError, OSError) as e:
            if isinstance(e, nats.errors.MaxPayloadError):
                raise InvalidError(f"a message of {len(data)} bytes is larger than the stream takes") from e
            raise TransientError(str(e) or type(e).__name__) from e
        try:
            answer: dict[str, Any] = json.loads(msg.data)
        except ValueError as e:
            raise CorruptError("the stream's answer cannot be read: corrupt") from e
        if "error" in answer:
            err = answer["error"]
            raise ApiError(int(err.get("err_code", 0)), str(err.get("description", "")))
        return answer

    async def persist(self, what: str, f: Callable[[], Awaitable[T]], timeout: float = 60.0) -> T:
        """Asks until there is an answer: for what may be asked twice."""
        end, wait = time.monotonic() + timeout, 0.01
        while True:
            try:
                return await f()
            except TransientError as e:
                if time.monotonic() > end:
                    raise UnavailableError(f"{what}: the stream at {self.url} does not answer: {e}") from e
                self.check_refused()
                await asyncio.sleep(wait)
                wait = min(2 * wait, 1.0)

    def check_refused(self) -> None:
        last = str(getattr(self.nc, "last_error", "") or "").lower()
        if "permissions violation" in last or "authorization" in last:
            raise DeniedError(f"the stream does not let this certificate do that: {last}")

    async def message(self, stream: str, request: dict[str, Any]) -> tuple[int, str, bytes] | None:
        """Returns sequence, headers and data of a stored message, or None."""
        try:
            got = await self.persist("read the stream", lambda: self.call("STREAM.MSG.GET." + stream, request))
        except ApiError as e:
            if e.code in (NOT_FOUND, STREAM_NOT_FOUND):
                return None
            raise
        m = got["message"]
        return (
            int(m["seq"]),
            base64.b64decode(m.get("hdrs", "")).decode(errors="replace"),
            base64.b64decode(m.get("data", "")),
        )

    async def load(self, topic: str) -> Record | None:
        got = await self.message(KV_STREAM, {"last_by_subj": f"$KV.{BUCKET}.t.{escape(topic)}"})
        if got is None or "KV-Operation: " in got[1]:
            return None
        return Record.read(topic, got[2], got[0])

    async def store(self, topic: str, r: Record) -> None:
        """Replaces the record if it still has r's revision; a lost race is a ConflictError."""
        subject = f"$KV.{BUCKET}.t.{escape(topic)}"
        expect = r.revision
        if expect == 0:
            # A key that was deleted has a last message too.
            left = await self.message(KV_STREAM, {"last_by_subj": subject})
            expect = left[0] if left else 0
        try:
            ack = await self.send(subject, r.write(), {"Nats-Expected-Last-Subject-Sequence": str(expect)})
        except ApiError as e:
            if e.code in WRONG_LAST:
                raise ConflictError(f"write the record of topic {topic!r}: conflict") from e
            raise api_error(e, f"write the record of topic {topic!r}") from e
        except TransientError as e:
            # It may have been written: whoever reads it next finds out.
            raise ConflictError(f"write the record of topic {topic!r}: {e}") from e
        r.revision = int(ack["seq"])

    async def make_bucket(self) -> None:
        config = {
            "name": KV_STREAM,
            "description": "Tidemill's topics and what their readers still need",
            "subjects": [f"$KV.{BUCKET}.>"],
            "max_msgs_per_subject": 1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "num_replicas": 1,
            "duplicate_window": 120_000_000_000,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
            "max_consumers": -1,
            "max_msgs": -1,
        }
        try:
            await self.persist("make the bucket of topics", lambda: self.call("STREAM.CREATE." + KV_STREAM, config))
        except ApiError as e:
            if e.code != STREAM_IN_USE:
                raise api_error(e, "make the bucket of topics") from e

    async def has_bucket(self) -> bool:
        try:
            await self.persist("open the bucket of topics", lambda: self.call("STREAM.INFO." + KV_STREAM))
        except ApiError as e:
            if e.code == STREAM_NOT_FOUND:
                return False
            raise api_error(e, "open the bucket of topics") from e
        return True

    async def names(self) -> list[str]:
        """Returns the names of all topics."""
        subjects = f"$KV.{BUCKET}.t.*"
        try:
            info = await self.persist(
                "list the topics", lambda: self.call("STREAM.INFO." + KV_STREAM, {"subjects_filter": subjects})
            )
        except ApiError as e:
            if e.code == STREAM_NOT_FOUND:
                return []
            raise api_error(e, "list the topics") from e
        found = []
        for s in info["state"].get("subjects") or {}:
            name = s.rsplit(".", 1)[1].replace("=", ".")
            r = await self.load(name)
            if r is not None and r.state in ("ready", "growing"):
                found.append(name)
        return sorted(found)

    async def create(self, name: str, partitions: int, schema: pa.Schema) -> Topic:
        """Opens a topic, made when there is none."""
        if not await self.has_bucket():
            await self.make_bucket()
        while True:
            r = await self.load(name)
            if r is None:
                r = Record(identity(), max(1, partitions), "making", [])
                r.add(schema)
                try:
                    await self.store(name, r)
                except ConflictError:
                    continue
            if r.state == "deleting":
                raise ConflictError(f"topic {name!r} is being deleted (try again when that is done)")
            if partitions and r.partitions != partitions:
                raise InvalidError(
                    f"topic {name!r} has {r.partitions} partitions, not {partitions} (keep its number, or use another topic)"
                )
            try:
                await self.finish(name, r)
            except ConflictError:
                continue
            return Topic(self, name, r)

    async def open(self, name: str) -> Topic | None:
        while True:
            r = await self.load(name)
            if r is None or r.state == "deleting":
                return None
            try:
                await self.finish(name, r)
            except ConflictError:
                continue
            return Topic(self, name, r)

    async def delete(self, name: str) -> None:
        """Deletes a topic with its rows, or goes on with that."""
        while True:
            r = await self.load(name) if await self.has_bucket() else None
            if r is None:
                raise NotFoundError(f"topic {name!r}: not found")
            try:
                if r.state != "deleting":
                    r.state = "deleting"
                    await self.store(name, r)
                for p in range(r.partitions):
                    await self.drop(f"TIDEMILL_{escape(name)}_{p}")
                for kind in ("h", "k"):
                    await self.forget(f"$KV.{BUCKET}.{kind}.{escape(name)}.{r.identity}.>")
                await self.send(
                    f"$KV.{BUCKET}.t.{escape(name)}",
                    b"",
                    {"KV-Operation": "DEL", "Nats-Expected-Last-Subject-Sequence": str(r.revision)},
                )
                return
            except (ConflictError, TransientError):
                continue  # somebody else deletes it too, or an answer was lost
            except ApiError as e:
                if e.code not in WRONG_LAST:
                    raise api_error(e, f"delete topic {name!r}") from e

    async def drop(self, stream: str) -> None:
        try:
            await self.persist("delete a partition", lambda: self.call("STREAM.DELETE." + stream))
        except ApiError as e:
            if e.code != STREAM_NOT_FOUND:
                raise

    async def forget(self, subjects: str) -> None:
        """Removes what is kept of a topic's holders and keys."""
        info = await self.persist(
            "look for what is kept", lambda: self.call("STREAM.INFO." + KV_STREAM, {"subjects_filter": subjects})
        )
        for s in info["state"].get("subjects") or {}:
            await self.persist("remove what is kept", partial(self.send, s, b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}))

    async def finish(self, name: str, r: Record) -> None:
        """Makes the partitions of a topic whose record says that they are being made."""
        if r.state == "ready":
            return
        for p in range(r.partitions):
            await self.make_partition(name, r.identity, p)
        r.state = "ready"
        await self.store(name, r)

    async def make_partition(self, name: str, ident: str, p: int) -> None:
        stream = f"TIDEMILL_{escape(name)}_{p}"
        config: dict[str, Any] = {
            "name": stream,
            "description": f"Tidemill topic {name}, partition {p}",
            "subjects": [f"tm.{escape(name)}.{ident}.{p}.*"],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "num_replicas": 1,
            "max_msgs": -1,
            "max_consumers": -1,
            "max_msg_size": -1,
            "max_age": 0,
            "duplicate_window": 100_000_000,
            "allow_direct": False,
            "metadata": {"tidemill-topic": name, "tidemill-identity": ident, "tidemill-partition": str(p)},
        }
        reserve = FIRST_RESERVE
        while True:
            config["max_bytes"] = reserve
            try:
                await self.persist(f"make partition {p} of topic {name!r}", lambda: self.call("STREAM.CREATE." + stream, config))
                return
            except ApiError as e:
                if e.code == STREAM_IN_USE:
                    info = await self.persist("open a partition", lambda: self.call("STREAM.INFO." + stream))
                    if info["config"].get("metadata", {}).get("tidemill-identity") != ident:
                        raise InvalidError(
                            f"partition {p} of an earlier topic {name!r} is still there, without that topic's record"
                        ) from e
                    return
                if e.full and reserve > LEAST_RESERVE:
                    reserve = max(LEAST_RESERVE, reserve // 4)
                    continue
                raise api_error(e, f"make partition {p} of topic {name!r}") from e


def identity() -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return "".join(secrets.choice(digits) for _ in range(8))


def api_error(e: ApiError, what: str) -> TidemillError:
    if e.full:
        return FullError(f"{what}: full: {e}")
    if e.code in (STREAM_NOT_FOUND, NOT_FOUND):
        return NotFoundError(f"{what}: not found: {e}")
    return TidemillError(f"{what}: {e}")


@dataclass
class Tail:
    """The end of a partition: its last sequence, and the offset that the next row gets."""

    seq: int
    next: int


class Topic:
    """An open topic."""

    def __init__(self, stream: Stream, name: str, record: Record) -> None:
        self.stream, self.name, self.record = stream, name, record
        self.schema, self.print = record.schema()
        self.tails: dict[int, Tail] = {}

    async def refresh(self) -> None:
        r = await self.stream.load(self.name)
        if r is None or r.identity != self.record.identity or r.state == "deleting":
            raise NotFoundError(f"topic {self.name!r} was deleted: not found")
        self.record = r
        self.schema, self.print = r.schema()

    async def evolve(self, rows: pa.Schema) -> None:
        """Adds the columns that rows has and the topic lacks."""
        while True:
            want = schemas.grown(self.schema, rows)
            if want.equals(self.schema):
                return
            self.record.add(want)
            with contextlib.suppress(ConflictError):
                await self.stream.store(self.name, self.record)
            await self.refresh()

    def stream_name(self, p: int) -> str:
        return f"TIDEMILL_{escape(self.name)}_{p}"

    def subject(self, p: int, of: str) -> str:
        return f"tm.{escape(self.name)}.{self.record.identity}.{p}.{of}"

    async def stored(self, p: int, request: dict[str, Any]) -> Stored | None:
        got = await self.stream.message(self.stream_name(p), request)
        if got is None:
            return None
        try:
            return Stored(got[0], parse(got[2]))
        except CorruptError as e:
            raise CorruptError(f"topic {self.name!r} partition {p} sequence {got[0]}: {e}") from e

    async def read_tail(self, p: int) -> Tail:
        last = await self.stored(p, {"last_by_subj": self.subject(p, "*")})
        return Tail(last.seq, last.frame.next) if last else Tail(0, 0)

    async def last_key(self, p: int, prefix: str) -> int:
        """Returns the number of the last append under a key prefix, 0 when there is none: the
        input row after its last one."""
        last = await self.stored(p, {"last_by_subj": self.subject(p, token(prefix))})
        if last is not None:
            got, number = parse_key(last.frame.key)
            if got != prefix:
                raise CorruptError(f"topic {self.name!r} partition {p} sequence {last.seq} has key {last.frame.key!r}: corrupt")
            return number
        purged = await self.stream.message(
            KV_STREAM,
            {"last_by_subj": f"$KV.{BUCKET}.k.{escape(self.name)}.{self.record.identity}.{p}.{token(prefix)}"},
        )
        if purged is None or "KV-Operation: " in purged[1]:
            return 0
        try:
            o = json.loads(purged[2])
            if o["prefix"] != prefix:
                raise ValueError
            return int(o["number"])
        except (ValueError, KeyError, TypeError) as e:
            raise CorruptError(f"what was kept of key prefix {prefix!r} cannot be read: corrupt") from e

    async def append(self, p: int, rows: int, body: bytes, prefix: str, number: int, before: int, timeout: float) -> int | None:
        """Appends rows under PREFIX/NUMBER if the last number under the prefix still is `before`,
        and returns the offset after them; None when somebody else has gone on with the prefix."""
        frame = Frame(0, rows, self.print, secrets.randbits(64), f"{prefix}/{number}", body)
        unsure: list[int] = []
        end, wait, rooms = time.monotonic() + timeout, 0.001, 0
        while True:
            tail = self.tails.get(p)
            if tail is None:
                tail = self.tails[p] = await self.read_tail(p)
                for exp in [u for u in unsure if tail.seq > u]:
                    # It can only lie right after the sequence that the try was conditioned on.
                    m = await self.stored(p, {"seq": exp + 1, "next_by_subj": self.subject(p, "*")})
                    if m is not None and m.seq == exp + 1 and m.frame.mark == frame.mark:
                        return m.frame.next
                    unsure.remove(exp)
                # Keys are read after the tail: one appended since makes the publish fail.
                if await self.last_key(p, prefix) != before:
                    return None
            try:
                ack = await self.stream.send(
                    self.subject(p, token(prefix)),
                    frame.at(tail.next).seal(),
                    {"Nats-Expected-Last-Sequence": f"{tail.seq:013d}"},
                )
                self.tails[p] = Tail(int(ack["seq"]), tail.next + rows)
                return tail.next + rows
            except ApiError as e:
                self.tails.pop(p, None)
                if e.code in WRONG_LAST:
                    continue
                if e.full and rooms < 64 and await self.grow(p, e):
                    rooms += 1
                    continue
                raise (
                    self.full(p, len(body), e) if e.full else api_error(e, f"append to topic {self.name!r} partition {p}")
                ) from e
            except TransientError as e:
                self.tails.pop(p, None)
                if tail.seq not in unsure:
                    unsure.append(tail.seq)
                if time.monotonic() > end:
                    raise UnavailableError(
                        f"append to topic {self.name!r} partition {p}: the rows may or may not be stored; "
                        f"the same call goes on from there: {e}"
                    ) from e
                self.stream.check_refused()
                await self.refresh()
                await asyncio.sleep(wait)
                wait = min(2 * wait, 1.0)

    async def grow(self, p: int, cause: ApiError) -> bool:
        """Reserves more of the server's store for a partition that is full."""
        if cause.code != STORE_FAILED:
            return False
        name = self.stream_name(p)
        info = await self.stream.persist("measure a partition", lambda: self.stream.call("STREAM.INFO." + name))
        config, have = info["config"], int(info["config"].get("max_bytes", -1))
        if have <= 0 or have > int(info["state"]["bytes"]) + MESSAGE_BYTES:
            return have > 0  # another producer has grown it
        step = min(max(have, LEAST_RESERVE), MOST_STEP)
        while step >= LEAST_RESERVE:
            more = {**config, "max_bytes": have + step}
            try:
                await self.stream.persist("grow a partition", partial(self.stream.call, "STREAM.UPDATE." + name, more))
                return True
            except ApiError as e:
                if not e.full:
                    raise api_error(e, f"grow topic {self.name!r} partition {p}") from e
            step //= 4
        return False

    def full(self, p: int, size: int, cause: ApiError) -> FullError:
        return FullError(
            f"append {size} bytes to topic {self.name!r} partition {p}: the server's store has no more to give; "
            f"what was there before is intact: full: {cause}"
        )
