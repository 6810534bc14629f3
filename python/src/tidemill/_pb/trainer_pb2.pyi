from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Up(_message.Message):
    __slots__ = ("hello", "report")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    report: Report
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., report: _Optional[_Union[Report, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("member",)
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    member: str
    def __init__(self, member: _Optional[str] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("job", "generation", "partition", "epoch", "joined", "next", "acked", "offers", "at_end", "end", "torn", "fault", "routes")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    AT_END_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TORN_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    partition: int
    epoch: int
    joined: bool
    next: int
    acked: int
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    at_end: bool
    end: int
    torn: bool
    fault: str
    routes: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., partition: _Optional[int] = ..., epoch: _Optional[int] = ..., joined: bool = ..., next: _Optional[int] = ..., acked: _Optional[int] = ..., offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ..., at_end: bool = ..., end: _Optional[int] = ..., torn: bool = ..., fault: _Optional[str] = ..., routes: _Optional[int] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("first", "step", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    step: int
    count: int
    def __init__(self, first: _Optional[int] = ..., step: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: Grant
    def __init__(self, grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("job", "generation", "partition", "epoch", "run", "next", "routes")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    partition: int
    epoch: int
    run: Run
    next: int
    routes: int
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., partition: _Optional[int] = ..., epoch: _Optional[int] = ..., run: _Optional[_Union[Run, _Mapping]] = ..., next: _Optional[int] = ..., routes: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("round", "count", "parts")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    round: int
    count: int
    parts: _containers.RepeatedCompositeFieldContainer[PartRun]
    def __init__(self, round: _Optional[int] = ..., count: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[PartRun, _Mapping]]] = ...) -> None: ...

class PartRun(_message.Message):
    __slots__ = ("partition", "first", "step")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    partition: int
    first: int
    step: int
    def __init__(self, partition: _Optional[int] = ..., first: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class CommandRequest(_message.Message):
    __slots__ = ("job", "verb", "args", "by")
    class ArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    job: str
    verb: str
    args: _containers.ScalarMap[str, str]
    by: str
    def __init__(self, job: _Optional[str] = ..., verb: _Optional[str] = ..., args: _Optional[_Mapping[str, str]] = ..., by: _Optional[str] = ...) -> None: ...

class CommandReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...
