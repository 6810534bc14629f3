"""gRPC to nodes: channels, and statuses that become the errors of this package."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from ._address import TLS
from ._pb import inference_pb2, status_pb2, trainer_pb2
from .errors import (
    KINDS,
    ConflictError,
    CorruptError,
    DeniedError,
    ExistsError,
    FullError,
    InvalidError,
    NotFoundError,
    NotReadyError,
    TidemillError,
    UnavailableError,
)

T = TypeVar("T")

MAX_MESSAGE = 64 << 20  # bytes, as the servers have it
PROTOCOLS = "1"  # versions of the cluster's protocol that this package speaks
CALL_TIMEOUT = 120.0  # seconds of one command; pausing and savepoints wait for a barrier
READY_TIMEOUT = 20.0  # seconds that a cluster may take to elect its leader

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

COMMAND = (
    "/tidemill.trainer.v1.Trainer/Command",
    trainer_pb2.CommandRequest.SerializeToString,
    trainer_pb2.CommandReply.FromString,
)
METADATA = (
    "/inference.GRPCInferenceService/ModelMetadata",
    inference_pb2.ModelMetadataRequest.SerializeToString,
    inference_pb2.ModelMetadataResponse.FromString,
)
INFER = (
    "/inference.GRPCInferenceService/ModelInfer",
    inference_pb2.ModelInferRequest.SerializeToString,
    inference_pb2.ModelInferResponse.FromString,
)

BY_CODE: dict[grpc.StatusCode, type[TidemillError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidError,
    grpc.StatusCode.UNIMPLEMENTED: InvalidError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ExistsError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.DATA_LOSS: CorruptError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: FullError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
    grpc.StatusCode.UNAUTHENTICATED: DeniedError,
}


class Metadata(Protocol):
    """What both kinds of grpc.RpcError have."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


def channel(address: str, tls: TLS) -> Any:
    if not tls:
        return grpc.insecure_channel(address, OPTIONS)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*tls.read()), OPTIONS)


def aio_channel(address: str, tls: TLS) -> Any:
    if not tls:
        return grpc.aio.insecure_channel(address, OPTIONS)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*tls.read()), OPTIONS)


def error_of(e: Metadata, who: str, address: str) -> TidemillError:
    """Turns a failed call into an error of this package, with the text of who answered."""
    text = e.details() or str(e.code().name).lower().replace("_", " ")
    reason = ""
    for key, value in e.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            reason = kind_of(value)
    for kind in KINDS:
        if reason == kind.reason:
            return kind(text)
    if e.code() == grpc.StatusCode.UNAVAILABLE:
        return unreachable(text, who, address)
    if e.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailableError(f"the {who} at {address} has not answered in time")
    return BY_CODE.get(e.code(), TidemillError)(text)


def kind_of(details: bytes) -> str:
    """Returns the reason in a status's ErrorInfo of Tidemill's own, or ""."""
    try:
        for d in status_pb2.Status.FromString(details).details:
            if d.type_url.endswith("/google.rpc.ErrorInfo"):
                info = status_pb2.ErrorInfo.FromString(d.value)
                if info.domain == "tidemill":
                    return str(info.reason)
    except ValueError:  # protobuf's DecodeError
        pass
    return ""


def unreachable(text: str, who: str, address: str) -> UnavailableError:
    """Says what to do about a connection that was never made."""
    low = text.lower()
    absent = ("refused", "no route", "unreachable", "dns", "resol", "not known", "timed out", "deadline")
    if any(w in low for w in absent):
        return UnavailableError(f"no {who} answers at {address}; start one with `tidemill start`, or connect to another address")
    why = text.split("last error: ", 1)[-1]
    return UnavailableError(f"the {who} at {address} cannot be talked to: {why}; check tls_ca, tls_cert and tls_key")


class Pauses:
    """Grows the pauses between tries, at most for as long as given in all."""

    def __init__(self, most: float = READY_TIMEOUT) -> None:
        self.end = time.monotonic() + most
        self.wait = 0.02

    def next(self) -> float | None:
        """Returns the next pause in seconds, or None when time is up."""
        if time.monotonic() > self.end:
            return None
        wait, self.wait = self.wait, min(2 * self.wait, 1.0)
        return wait * random.uniform(0.8, 1.0)


def retrying(call: Callable[[], T]) -> T:
    """Calls again while the answer is that the moment is wrong."""
    pauses = Pauses()
    while True:
        try:
            return call()
        except NotReadyError:
            wait = pauses.next()
            if wait is None:
                raise
            time.sleep(wait)


def calling(method: Callable[..., T], request: Any, who: str, address: str, timeout: float = CALL_TIMEOUT) -> T:
    def once() -> T:
        try:
            return method(request, timeout=timeout, metadata=(("tidemill-protocol", PROTOCOLS),))
        except grpc.RpcError as e:
            raise error_of(e, who, address) from None

    return retrying(once)


async def calling_async(
    method: Callable[..., Awaitable[T]], request: Any, who: str, address: str, timeout: float = CALL_TIMEOUT
) -> T:
    import asyncio

    pauses = Pauses()
    while True:
        try:
            return await method(request, timeout=timeout, metadata=(("tidemill-protocol", PROTOCOLS),))
        except grpc.RpcError as e:
            err = error_of(e, who, address)
        if not isinstance(err, NotReadyError):
            raise err
        wait = pauses.next()
        if wait is None:
            raise err
        await asyncio.sleep(wait)
