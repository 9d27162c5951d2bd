from . import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToBrain(_message.Message):
    __slots__ = ("hello", "batch")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    batch: Batch
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "route", "version", "limits")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    route: str
    version: str
    limits: Limits
    def __init__(self, protocol: _Optional[int] = ..., route: _Optional[str] = ..., version: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("answer_bytes_max", "findings_per_event_max", "findings_more_max")
    ANSWER_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_PER_EVENT_MAX_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_MORE_MAX_FIELD_NUMBER: _ClassVar[int]
    answer_bytes_max: int
    findings_per_event_max: int
    findings_more_max: int
    def __init__(self, answer_bytes_max: _Optional[int] = ..., findings_per_event_max: _Optional[int] = ..., findings_more_max: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("sequence", "journal", "replay", "redrive", "offsets", "events")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    REDRIVE_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    journal: Stretch
    replay: Replay
    redrive: Redrive
    offsets: _containers.RepeatedScalarFieldContainer[int]
    events: _events_pb2.EventBatch
    def __init__(self, sequence: _Optional[int] = ..., journal: _Optional[_Union[Stretch, _Mapping]] = ..., replay: _Optional[_Union[Replay, _Mapping]] = ..., redrive: _Optional[_Union[Redrive, _Mapping]] = ..., offsets: _Optional[_Iterable[int]] = ..., events: _Optional[_Union[_events_pb2.EventBatch, _Mapping]] = ...) -> None: ...

class Stretch(_message.Message):
    __slots__ = ("log", "first", "end", "part")
    LOG_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    log: str
    first: int
    end: int
    part: int
    def __init__(self, log: _Optional[str] = ..., first: _Optional[int] = ..., end: _Optional[int] = ..., part: _Optional[int] = ...) -> None: ...

class Replay(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Redrive(_message.Message):
    __slots__ = ("log", "letter")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LETTER_FIELD_NUMBER: _ClassVar[int]
    log: str
    letter: int
    def __init__(self, log: _Optional[str] = ..., letter: _Optional[int] = ...) -> None: ...

class FromBrain(_message.Message):
    __slots__ = ("credit", "ready", "answer")
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    credit: int
    ready: Ready
    answer: Answer
    def __init__(self, credit: _Optional[int] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("protocol", "brain", "message_bytes_max")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    BRAIN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    brain: str
    message_bytes_max: int
    def __init__(self, protocol: _Optional[int] = ..., brain: _Optional[str] = ..., message_bytes_max: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("sequence", "done", "later", "refused")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    LATER_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    done: Done
    later: Later
    refused: Refused
    def __init__(self, sequence: _Optional[int] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., later: _Optional[_Union[Later, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class Later(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("events", "message")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RefusedEvent]
    message: str
    def __init__(self, events: _Optional[_Iterable[_Union[RefusedEvent, _Mapping]]] = ..., message: _Optional[str] = ...) -> None: ...

class RefusedEvent(_message.Message):
    __slots__ = ("index", "code", "message")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: str
    message: str
    def __init__(self, index: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("causes", "event")
    CAUSES_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    causes: _containers.RepeatedScalarFieldContainer[int]
    event: _events_pb2.Event
    def __init__(self, causes: _Optional[_Iterable[int]] = ..., event: _Optional[_Union[_events_pb2.Event, _Mapping]] = ...) -> None: ...
