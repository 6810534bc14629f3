"""Predictions over the Open Inference Protocol, with the version that made them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from . import _rpc
from ._address import TLS
from ._pb import inference_pb2
from .columns import Rows, to_table
from .errors import CorruptError, InvalidError, NotFoundError

WHO = "serving node"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one version, in the order of the rows."""

    model: str
    version: int
    values: npt.NDArray[np.float32]
    """`[rows]` probabilities of the positive class or values; `[rows, classes]` of a multiclass model."""
    index: Any = None
    """The index of the pandas rows that were asked about, else None."""

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, i: Any) -> Any:
        return self.values[i]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False and dtype is not None and dtype != self.values.dtype:
            raise ValueError("another dtype takes a copy")
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def names(self) -> list[str]:
        """Returns the names of the columns of `to_arrow` and `to_pandas`."""
        if self.values.ndim == 1:
            return ["prediction"]
        return [f"prediction_{k}" for k in range(self.values.shape[1])]

    def to_arrow(self) -> pa.Table:
        """Returns the predictions and a column `version`."""
        columns = self.values.reshape(len(self.values), -1)
        arrays = [pa.array(np.ascontiguousarray(columns[:, k])) for k in range(columns.shape[1])]
        arrays.append(pa.array(np.full(len(self.values), self.version, dtype=np.int64)))
        return pa.table(dict(zip([*self.names(), "version"], arrays, strict=True)))

    def to_pandas(self) -> Any:
        """Returns the same as a DataFrame, with the index of the rows that were asked about."""
        df = self.to_arrow().to_pandas()
        if self.index is not None:
            df.index = self.index
        return df


class Question:
    """One request of any number of rows: in chunks, all answered by the version that answers the
    first, so that a swap in between is not seen."""

    def __init__(self, model: str, version: int | None, rows: Rows, batch_rows: int) -> None:
        if batch_rows < 1:
            raise InvalidError(f"batch_rows is {batch_rows} (give 1 or more)")
        self.model, self.rows, self.batch_rows = model, rows, batch_rows
        self.wanted = "" if version is None else str(version)

    def about(self) -> inference_pb2.ModelMetadataRequest:
        return inference_pb2.ModelMetadataRequest(name=self.model, version=self.wanted)

    def requests(self, meta: inference_pb2.ModelMetadataResponse) -> list[inference_pb2.ModelInferRequest]:
        """Returns the requests, without rows none. Their version is the one wanted."""
        names = [i.name for i in meta.inputs]
        table = to_table(self.rows, names)
        missing = [n for n in names if n not in table.column_names]
        if missing:
            raise InvalidError(f"the rows have no column {missing[0]!r} (the model wants {', '.join(names)})")
        tensors = [Tensor(i.name, i.datatype, table.column(i.name).combine_chunks()) for i in meta.inputs]
        out = []
        for at in range(0, len(table), self.batch_rows):
            n = min(self.batch_rows, len(table) - at)
            req = inference_pb2.ModelInferRequest(model_name=self.model, model_version=self.wanted)
            for name, t in zip(names, tensors, strict=True):
                data = t.rows(at, n)
                req.inputs.append(
                    inference_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=t.datatype, shape=t.shape(n))
                )
                req.raw_input_contents.append(data)
            out.append(req)
        return out

    def answer(
        self,
        meta: inference_pb2.ModelMetadataResponse,
        answers: Sequence[inference_pb2.ModelInferResponse],
        version: int,
    ) -> Predictions:
        parts = [decode(a) for a in answers]
        if not parts:
            shape = list(meta.outputs[0].shape) if meta.outputs else [-1]
            values = np.zeros([0, *shape[1:]], dtype=np.float32)
        else:
            values = np.concatenate(parts)
        return Predictions(self.model, version, values, getattr(self.rows, "index", None) if is_pandas(self.rows) else None)


def is_pandas(rows: Rows) -> bool:
    return type(rows).__module__.partition(".")[0] == "pandas"


def decode(a: inference_pb2.ModelInferResponse) -> npt.NDArray[np.float32]:
    if len(a.outputs) != 1 or len(a.raw_output_contents) != 1 or a.outputs[0].datatype != "FP32":
        raise CorruptError(f"the answer has {len(a.outputs)} outputs")
    values = np.frombuffer(a.raw_output_contents[0], dtype="<f4")
    shape = tuple(a.outputs[0].shape)
    if len(shape) not in (1, 2) or int(np.prod(shape)) != len(values):
        raise CorruptError(f"the answer has {len(values)} numbers of shape {list(shape)}")
    return values.reshape(shape).astype(np.float32)


def answered(a: inference_pb2.ModelInferResponse) -> int:
    if not a.model_version.isdigit():
        raise CorruptError(f"the answer names version {a.model_version!r}")
    return int(a.model_version)


class Tensor:
    """A column as the protocol carries it."""

    NUMBERS: ClassVar = {
        "FP64": "<f8",
        "FP32": "<f4",
        "INT64": "<i8",
        "UINT64": "<u8",
    }

    def __init__(self, name: str, datatype: str, column: Any) -> None:
        self.name, self.datatype, self.width = name, datatype, 0
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if column.null_count:
            raise InvalidError(f"column {name!r}: {column.null_count} values are missing (a request cannot carry nulls)")
        t = column.type
        if pa.types.is_list(t) or pa.types.is_fixed_size_list(t):
            widths = pc.list_value_length(column).unique().to_pylist()
            if len(widths) > 1:
                raise InvalidError(f"column {name!r} has lists of {min(widths)} to {max(widths)} (make them equally long)")
            self.width = widths[0] if widths else 0
            column = column.flatten()
            if column.null_count:
                raise InvalidError(f"column {name!r}: a list has missing values (a request cannot carry nulls)")
            t = column.type
        self.data: Any
        if pa.types.is_temporal(t):
            self.datatype, self.data = "BYTES", moments(column)
        elif datatype == "BYTES":
            if not (pa.types.is_string(t) or pa.types.is_binary(t)):
                raise self.wrong(t, "text")
            self.data = column.cast(pa.binary()).to_pylist()
        elif datatype == "BOOL":
            if not pa.types.is_boolean(t):
                raise self.wrong(t, "true or false")
            self.data = np.asarray(column.cast(pa.uint8()))
        elif not (pa.types.is_integer(t) or pa.types.is_floating(t)):
            raise self.wrong(t, "a number")
        else:
            self.data = self.numbers(column, t)

    def numbers(self, column: Any, t: pa.DataType) -> Any:
        """Converts where the server would: it says itself which row cannot be, so floats for a
        whole number stay floats."""
        if pa.types.is_floating(t) and self.datatype in ("INT64", "UINT64"):
            self.datatype = "FP64"
        if pa.types.is_integer(t) and self.datatype in ("FP32", "FP64"):
            self.datatype = "UINT64" if t == pa.uint64() else "INT64"
        if self.datatype == "INT64" and t == pa.uint64():
            self.datatype = "UINT64"
        if self.datatype == "UINT64" and t != pa.uint64():
            self.datatype = "INT64"
        return np.asarray(column).astype(self.NUMBERS[self.datatype])

    def wrong(self, t: pa.DataType, want: str) -> InvalidError:
        return InvalidError(f"column {self.name!r} has values of type {t}, and the model wants {want}")

    def shape(self, rows: int) -> list[int]:
        return [rows, self.width] if self.width else [rows]

    def rows(self, at: int, n: int) -> bytes:
        k = self.width or 1
        part = self.data[at * k : (at + n) * k]
        if isinstance(part, np.ndarray):
            return part.tobytes()
        return b"".join(len(v).to_bytes(4, "little") + v for v in part)


def moments(column: Any) -> list[bytes]:
    """Returns times as RFC 3339 text, which a server reads in whatever unit its column has."""
    t = column.type
    if pa.types.is_timestamp(t):
        zone = "UTC" if t.tz is None else t.tz
        utc = column.cast(pa.timestamp(t.unit, zone)).cast(pa.timestamp(t.unit, "UTC")).cast(pa.timestamp(t.unit))
        text = pc.strftime(utc, format="%Y-%m-%dT%H:%M:%SZ")
    else:
        text = pc.strftime(column.cast(pa.timestamp("ms")), format="%Y-%m-%dT%H:%M:%SZ")
    return [s.encode() for s in text.to_pylist()]


class Predictor:
    """Asks one serving node. Safe for concurrent use."""

    def __init__(self, address: str, tls: TLS) -> None:
        self.address, self.tls = address, tls
        self.channel: Any = None
        self.lock = threading.Lock()
        self.loops: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def method(self, m: tuple[Any, ...]) -> Any:
        with self.lock:
            if self.channel is None:
                self.channel = _rpc.channel(self.address, self.tls)
            return self.channel.unary_unary(m[0], request_serializer=m[1], response_deserializer=m[2])

    def inputs(self, model: str, version: int | None) -> inference_pb2.ModelMetadataResponse:
        q = Question(model, version, [], 1)
        got: inference_pb2.ModelMetadataResponse = _rpc.calling(self.method(_rpc.METADATA), q.about(), WHO, self.address)
        return got

    def ask(self, q: Question) -> Predictions:
        meta = _rpc.calling(self.method(_rpc.METADATA), q.about(), WHO, self.address)
        requests = q.requests(meta)
        infer = self.method(_rpc.INFER)
        while True:
            answers: list[inference_pb2.ModelInferResponse] = []
            version = int(q.wanted or 0)
            try:
                for req in requests:
                    req.model_version = str(version) if version else ""
                    answers.append(_rpc.calling(infer, req, WHO, self.address))
                    version = answered(answers[-1])
                return q.answer(meta, answers, version)
            except NotFoundError:
                # The version of the first chunk was let go meanwhile: begin again with the next.
                if q.wanted or not answers:
                    raise

    async def ask_async(self, q: Question) -> Predictions:
        import asyncio

        loop = asyncio.get_running_loop()
        with self.lock:
            channel = self.loops.get(loop)
            if channel is None:
                channel = self.loops[loop] = _rpc.aio_channel(self.address, self.tls)

        def method(m: tuple[Any, ...]) -> Any:
            return channel.unary_unary(m[0], request_serializer=m[1], response_deserializer=m[2])

        meta = await _rpc.calling_async(method(_rpc.METADATA), q.about(), WHO, self.address)
        requests = q.requests(meta)
        infer = method(_rpc.INFER)
        while True:
            answers: list[inference_pb2.ModelInferResponse] = []
            version = int(q.wanted or 0)
            try:
                for req in requests:
                    req.model_version = str(version) if version else ""
                    answers.append(await _rpc.calling_async(infer, req, WHO, self.address))
                    version = answered(answers[-1])
                return q.answer(meta, answers, version)
            except NotFoundError:
                if q.wanted or not answers:
                    raise

    def close(self) -> None:
        with self.lock:
            if self.channel is not None:
                self.channel.close()
                self.channel = None
            self.loops.clear()
