"""A connection to a node, or to a cluster through one."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import nats
import nats.errors

from . import _rpc
from ._address import TLS, Addresses, resolve
from ._graph import graph_of
from ._loop import Loop
from ._pb import trainer_pb2
from ._stream.produce import Bar, Produced, Progress, Run, as_input
from ._stream.topic import Stream as Topics
from .columns import Rows
from .errors import DeniedError, InvalidError, NotFoundError, NotReadyError, UnavailableError
from .job import Job, JobStatus
from .models import Champion, Explanation, Version
from .predict import Predictions, Predictor, Question
from .spec import Spec, document

DIAL_TIMEOUT = 10.0  # seconds until a stream that does not answer is given up


def connect(
    url: str | os.PathLike[str] | None = None,
    *,
    stream: str = "",
    serving: str = "",
    tls_ca: str | os.PathLike[str] = "",
    tls_cert: str | os.PathLike[str] = "",
    tls_key: str | os.PathLike[str] = "",
) -> Client:
    """Returns a client of the node at `url`: its data directory on this machine, or the address of
    its RPC port, `HOST:PORT` or `tidemill://HOST:PORT`. Without one it is the node in the default
    data directory, as for the command `tidemill`.

    A data directory says where stream and serving are; beside an address they are taken to be at
    the default ports of the same host unless `stream` (`nats://HOST:PORT`) and `serving`
    (`HOST:PORT`) say otherwise. Nothing is dialled before it is needed.

    `tls_…` name PEM files: the authority to believe, and the own certificate with its key."""
    tls = TLS(os.fspath(tls_ca), os.fspath(tls_cert), os.fspath(tls_key))
    tls.read()
    return Client(resolve(url, stream, serving), tls)


class Client:
    """What `connect` returns. Safe for use by several threads; `close` it, or use it in a `with`."""

    def __init__(self, addresses: Addresses, tls: TLS) -> None:
        self.addresses, self._tls = addresses, tls
        self._loop = Loop()
        self._channel: Any = None
        self._nc: Any = None
        self._predictor: Predictor | None = None

    def __repr__(self) -> str:
        return f"<tidemill client of {self.addresses.source}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections. The client makes new ones when it is used again."""
        if self._nc is not None:
            self._loop.run(self._nc.close())
            self._nc = None
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._loop.close()

    def command(self, verb: str, job: str = "", **args: str) -> Any:
        """Carries out a verb of the trainer, and returns its answer. Further methods give the usual
        ones a form of their own."""
        if self._channel is None:
            self._channel = _rpc.channel(self.addresses.rpc, self._tls)
        m = _rpc.COMMAND
        call = self._channel.unary_unary(m[0], request_serializer=m[1], response_deserializer=m[2])
        request = trainer_pb2.CommandRequest(job=job, verb=verb, args=args, by=operator())
        reply = _rpc.calling(call, request, "node", self.addresses.rpc)
        return json.loads(reply.json) if reply.json else None

    # Rows.

    def produce(
        self,
        topic: str,
        rows: Any,
        *,
        id: str | None = None,  # noqa: A002 - the command's word
        partitions: int = 0,
        key: str | None = None,
        progress: bool | Callable[[Progress], None] | None = None,
    ) -> Produced:
        """Appends rows to a topic, which is made when there is none. Columns that the topic lacks
        are added to it; one of another type is converted when no value changes by that, and
        refused by name otherwise.

        `rows` is a table (pandas, polars, pyarrow), a dict of columns, a list of dicts, the path of
        a Parquet or Arrow file, or an iterator of tables, which needs an `id`.

        Run again, it goes on: an input whose rows are there is added no second time, and one that
        was interrupted goes on where it ended. Which input it is says `id`, or else a hash of the
        rows; give an `id` to add the same rows again, or to go on with rows that have grown at
        their end. `tidemill produce` counts Parquet and Arrow files, and `id`s, in the same way.

        `key` names a column whose equal values go to one partition; without it rows go to the
        partitions in turn. `partitions` is how many a new topic has. `progress` is a function to
        call after each append, or whether to show a line; by default on a terminal only."""
        source = as_input(rows, id, key)
        bar = None
        call = progress if callable(progress) else None
        if progress is True or (progress is None and terminal()):
            call = bar = Bar(topic)
        try:
            return Run(self._loop, self._stream(), topic, source, partitions, key).run(call)
        finally:
            if bar is not None:
                bar.done()

    def topics(self) -> list[str]:
        """Returns the names of all topics."""
        return self._loop.run(self._stream().names())

    def delete_topic(self, topic: str) -> None:
        """Deletes a topic with all its rows, whoever reads it."""
        self._loop.run(self._stream().delete(topic))

    def _stream(self) -> Topics:
        url = self.addresses.stream
        if not url:
            raise InvalidError(
                f"the node of {self.addresses.source} offers no stream to others "
                "(start it without --stream-listen -, or give stream=…)"
            )
        if self._nc is None or self._nc.is_closed:
            self._nc = self._loop.run(dial(url, self._tls))
        return Topics(self._nc, url)

    # Jobs.

    def submit(self, spec: Spec | os.PathLike[str], *, until_end: bool = False, start_from: str = "", yes: bool = False) -> Job:
        """Checks a spec whole, against its topic, and starts the job, which is named as its model.

        The spec is a `JobSpec`, a dict, YAML, or the path of a YAML file, beside which the graph
        file is looked for that it may name (else in the working directory). Everything that is wrong
        with it is in one InvalidError, whose `problems` name field or line. `until_end` ends the
        job at the end of the topic as it is now. `start_from` is a savepoint (LABEL, JOB/LABEL), a
        snapshot (JOB/NUMBER) or a version (MODEL@V) to begin with; `yes` agrees to the loss of
        what does not carry over."""
        file, folder = "spec", Path()
        if isinstance(spec, os.PathLike) or (isinstance(spec, str) and looks_like_path(spec)):
            path = Path(spec)
            file, folder = path.name, path.parent
            try:
                spec = path.read_text()
            except OSError as e:
                raise NotFoundError(f"{path.name}: {e.strerror}") from e
        doc = document(spec, file)
        try:
            graph = graph_of(self.command, spec, doc, folder)
            st = self.command(
                "submit",
                yaml=doc.text,
                file=doc.file,
                until_end="true" if until_end else "false",
                graph=graph,
                **{"from": start_from, "yes": "true" if yes else "false"},
            )
        except InvalidError as e:
            raise e if e.problems else doc.explain(e) from None
        return self.job(st["job"])

    def job(self, name: str) -> Job:
        """Returns a job by its name; whether there is one says its first use."""
        return Job(self.command, name, self.versions, self._answers)

    def jobs(self) -> list[JobStatus]:
        """Returns how all jobs stand."""
        return [JobStatus.of(o) for o in self.command("jobs")]

    # Versions.

    def versions(self, model: str, *, evidence: bool = False) -> list[Version]:
        """Returns a model's versions with the last decision on each, oldest first."""
        return [Version.of(o) for o in self.command("versions", model=model, evidence=str(evidence).lower())]

    def explain(self, model: str, version: int | None = None) -> Explanation:
        """Says why a version, by default the one that serves, is or is not live."""
        return Explanation.of(self.command("explain", model=model, version=digits(version)))

    def promote(self, model: str, version: int, *, why: str) -> Champion:
        """Makes a version serve, whatever the gate said of it. Who did it and why is kept."""
        return self._by_hand("promote", model, version, why)

    def rollback(self, model: str, version: int | None = None, *, why: str) -> Champion:
        """Makes an earlier version serve again: the one that served before, or the one given."""
        return self._by_hand("rollback", model, version, why)

    def _by_hand(self, verb: str, model: str, version: int | None, why: str) -> Champion:
        if not why.strip():
            raise InvalidError("why is missing (say why; it is kept with the record)")
        return Champion.of(self.command(verb, model=model, version=digits(version), why=why))

    # Predictions.

    def predict(self, model: str, rows: Rows, *, version: int | None = None, batch_rows: int = 256) -> Predictions:
        """Asks for predictions on rows with the stream's own columns; those that the model does not
        want are left out. A two-dimensional numpy array has the model's columns in its order
        (`inputs`). All of one call are by one version: the one given, or the one that serves.
        `batch_rows` is how many rows one request carries; a model may allow fewer than 1024."""
        return self._serving().ask(Question(model, version, rows, batch_rows))

    async def predict_async(self, model: str, rows: Rows, *, version: int | None = None, batch_rows: int = 256) -> Predictions:
        """Is `predict` for the caller's event loop."""
        return await self._serving().ask_async(Question(model, version, rows, batch_rows))

    def inputs(self, model: str, version: int | None = None) -> dict[str, str]:
        """Returns the columns that a model wants, in its order, with their datatypes."""
        return {i.name: i.datatype for i in self._serving().inputs(model, version).inputs}

    def _answers(self, model: str, version: int) -> bool:
        """Whether serving has a version loaded; also where there is no serving to ask."""
        try:
            return str(version) in self._serving().inputs(model, None).versions
        except (NotFoundError, NotReadyError):
            return False
        except (InvalidError, UnavailableError, DeniedError):
            return True

    def _serving(self) -> Predictor:
        if not self.addresses.serving:
            raise InvalidError(f"the node of {self.addresses.source} does not serve (name one that does by serving=…)")
        if self._predictor is None:
            self._predictor = Predictor(self.addresses.serving, self._tls)
        return self._predictor


def operator() -> str:
    """Returns who gives commands, for records of what was done by hand."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "python"


def digits(version: int | None) -> str:
    if version is None:
        return ""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InvalidError(f"version {version!r} (give a number from 1 on)")
    return str(version)


def looks_like_path(text: str) -> bool:
    return "\n" not in text and text.endswith((".yaml", ".yml"))


def terminal() -> bool:
    import sys

    return sys.stderr is not None and sys.stderr.isatty()


async def dial(url: str, tls: TLS) -> Any:
    """Connects to the stream. A loss later on is mended by itself."""
    nc = nats.NATS()
    told: list[Exception] = []

    async def note(e: Exception) -> None:
        told.append(e)
        del told[:-8]

    try:
        await asyncio.wait_for(
            nc.connect(
                servers=[u.strip() for u in url.split(",")],
                name="tidemill-python",
                connect_timeout=5,
                reconnect_time_wait=0.25,
                max_reconnect_attempts=2,
                allow_reconnect=False,
                error_cb=note,
                tls=tls.context() if tls else None,
            ),
            DIAL_TIMEOUT,
        )
    except (OSError, nats.errors.Error, asyncio.TimeoutError) as e:
        with contextlib.suppress(OSError, nats.errors.Error, asyncio.TimeoutError):
            await asyncio.wait_for(nc.close(), 1.0)
        text = next((str(t) for t in reversed([e, *told]) if str(t)), type(e).__name__)
        low = text.lower()
        if "authorization" in low:
            raise DeniedError(
                f"the stream does not let this certificate or these credentials in; its log says why: {text}"
            ) from e
        if tls or any(w in low for w in ("tls", "ssl", "certificate", "secure", "eof")):
            raise UnavailableError(f"the stream at {url} cannot be talked to: {text}; check tls_ca, tls_cert and tls_key") from e
        raise UnavailableError(
            f"no stream answers at {url}; start a node with `tidemill start`, or connect to another address"
        ) from e
    nc.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
    return nc
