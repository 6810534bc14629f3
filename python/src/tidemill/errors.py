"""Kinds of error. Each says what the caller does next; the texts are the server's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


class TidemillError(Exception):
    """What every error of this package derives from."""

    reason = ""  # as it is written on the wire


class InvalidError(TidemillError, ValueError):
    """The input is wrong and will be wrong again. Fix it; do not retry."""

    reason = "INVALID"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class NotFoundError(TidemillError, LookupError):
    """No such topic, job, model or version. Check the name, or wait for it."""

    reason = "NOT_FOUND"


class ExistsError(TidemillError):
    """A create-only name is taken. Read what is there, then decide."""

    reason = "EXISTS"


class FencedError(TidemillError):
    """Somebody else owns it by now. Read what is there again."""

    reason = "FENCED"


class NotReadyError(TidemillError):
    """Right request, wrong moment (starting, no version yet). Retry."""

    reason = "NOT_READY"


class ConflictError(TidemillError):
    """Somebody else was faster. Read again, then decide again."""

    reason = "CONFLICT"


class CorruptError(TidemillError):
    """Stored bytes do not match their checksum or format. Never use them."""

    reason = "CORRUPT"


class FullError(TidemillError):
    """A stated limit is reached. Free space or raise it; what was there before is intact."""

    reason = "FULL"


class UnavailableError(TidemillError, ConnectionError):
    """The other side cannot be reached. Retry; the request may have been carried out."""

    reason = "UNAVAILABLE"


class DeniedError(TidemillError, PermissionError):
    """The certificate does not allow this. Use another one."""

    reason = "DENIED"


class JobFailedError(TidemillError):
    """A job that was waited for ended otherwise. `job.status()` says how it stands."""


KINDS: tuple[type[TidemillError], ...] = (
    FencedError,
    CorruptError,
    DeniedError,
    InvalidError,
    NotFoundError,
    ExistsError,
    ConflictError,
    FullError,
    NotReadyError,
    UnavailableError,
)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec."""

    text: str  # what is wrong and what to do about it
    field: str = ""  # where, as `features[2].clip`; "" where the spec was given as text
    line: int = 0  # 1-based, in the text that was given; 0 unknown
    column: int = 0  # 1-based, in characters

    def __str__(self) -> str:
        if self.field:
            return f"{self.field}: {self.text}"
        if self.line:
            return f"line {self.line}:{self.column}: {self.text}"
        return self.text


def problems_of(message: str, file: str) -> list[Problem]:
    """Reads the server's list of problems with a spec, one a line, each `FILE:LINE:COLUMN: TEXT`."""
    found: list[Problem] = []
    place = re.compile(re.escape(file) + r":(\d+)(?::(\d+))?: (.*)$")
    for line in message.split("\n"):
        m = place.match(line)
        if m:
            found.append(Problem(m[3], line=int(m[1]), column=int(m[2] or 0)))
        elif found:
            found[-1] = replace(found[-1], text=f"{found[-1].text}\n{line}")
        elif line.strip():
            found.append(Problem(line))
    return found
