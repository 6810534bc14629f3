"""Jobs: how they stand, following them, and acting on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import display
from .errors import InvalidError, JobFailedError, NotFoundError
from .models import Version

SUBMITTED, VALIDATING, RUNNING, PAUSED = "submitted", "validating", "running", "paused"
FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"
STATES = (SUBMITTED, VALIDATING, RUNNING, PAUSED, FINISHED, FAILED, CANCELLED)
ENDED = (FINISHED, FAILED, CANCELLED)


@dataclass(frozen=True)
class Report:
    """Progressive validation: of predictions made before each label was used. What does not apply
    to the label is 0."""

    examples: int = 0
    loss: float = 0.0
    prior_loss: float = 0.0
    """Of knowing only how often each label comes."""
    normalized_entropy: float = 0.0
    auc: float = 0.0
    accuracy: float = 0.0
    no_change_accuracy: float = 0.0
    calibration: float = 0.0

    @classmethod
    def of(cls, o: Mapping[str, Any]) -> Report:
        return cls(**{k: o[k] for k in cls.__dataclass_fields__ if k in o})


@dataclass(frozen=True)
class JobStatus:
    """How a job stands."""

    job: str
    state: str
    """One of `tidemill.job.STATES`."""
    model: str = ""
    topic: str = ""
    reason: str = ""
    generation: int = 0
    snapshot: int = 0
    """The newest committed one."""
    cut: tuple[int, ...] = ()
    """Of it: one offset per partition."""
    examples: int = 0
    """Trained: so far while the job runs, else up to the last snapshot."""
    digest: str = ""
    snapshot_examples: int = 0
    champion: int = 0
    """The version that serves; 0 none."""
    bad_rows: int = 0
    """Put aside so far."""
    progress: Report = field(default_factory=Report)
    recent: Report = field(default_factory=Report)
    """Of the last 5000 examples or so."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Everything that the server said."""

    @classmethod
    def of(cls, o: Mapping[str, Any]) -> JobStatus:
        plain = {k: o[k] for k in cls.__dataclass_fields__ if k in o and k not in ("cut", "progress", "recent", "raw")}
        return cls(
            **plain,
            cut=tuple(o.get("cut") or ()),
            progress=Report.of(o.get("progress") or {}),
            recent=Report.of(o.get("recent") or {}),
            raw=dict(o),
        )

    @property
    def ended(self) -> bool:
        """Whether it never changes any more."""
        return self.state in ENDED

    def line(self) -> str:
        """Returns it in one line."""
        s = f"{self.job} {self.state}  {self.examples:,} examples  snapshot {self.snapshot}  live "
        s += f"v{self.champion}" if self.champion else "–"
        if self.recent.examples:
            s += f"  loss {self.recent.loss:.4f}  accuracy {self.recent.accuracy:.4f}"
        return s


class Job:
    """A job by its name. In a notebook it shows itself: loss and versions over examples."""

    def __init__(
        self,
        command: Callable[..., Any],
        name: str,
        versions: Callable[[str], list[Version]],
        answers: Callable[[str, int], bool],
    ) -> None:
        self.name = name
        self._command, self._versions, self._answers = command, versions, answers
        self._history: list[JobStatus] = []

    def __repr__(self) -> str:
        return f"<tidemill job {self.name}>"

    def status(self) -> JobStatus:
        """Asks how it stands."""
        return self._note(self._command("job", job=self.name))

    def _note(self, o: Mapping[str, Any]) -> JobStatus:
        st = JobStatus.of(o)
        last = self._history[-1] if self._history else None
        if last is None or (last.examples, last.champion, last.state) != (st.examples, st.champion, st.state):
            self._history.append(st)
        else:
            self._history[-1] = st
        return st

    def watch(self, interval: float = 0.5, timeout: float | None = None, display_: bool | None = None) -> Iterator[JobStatus]:
        """Yields how the job stands whenever that has changed, until it ends; the last one says how.
        In a notebook a picture of it is kept up to date, unless `display_` is False. `timeout`, in
        seconds, is how long to follow it at most."""
        begun, last = time.monotonic(), ""
        picture = display.Live(self) if display_ or (display_ is None and display.in_notebook()) else None
        while True:
            st = self.status()
            if st.line() != last:
                last = st.line()
                if picture is not None:
                    picture.update()
                yield st
            if st.ended or (timeout is not None and time.monotonic() - begun > timeout):
                return
            time.sleep(interval)

    def wait(self, state: str = "", *, examples: int = 0, champion: int = 0, timeout: float | None = None) -> JobStatus:
        """Waits until the job is in a state (finished, unless another condition is given), has
        trained so many examples, or a version, this one or a later one, serves and is loaded where
        this client asks for predictions. A job that will never be that is a JobFailedError, and so
        is one that is not by `timeout` seconds."""
        if state and state not in STATES:
            raise InvalidError(f"unknown state {state!r} (use {', '.join(STATES)})")
        if not state and not examples and not champion:
            state = FINISHED
        begun, pause = time.monotonic(), 0.02
        while True:
            st = self.status()
            met = (not state or st.state == state) and st.examples >= examples and st.champion >= champion
            if met and (not champion or self._answers(st.model, st.champion)):
                return st
            how = f"job {self.name!r} is {st.state} with {st.examples:,} examples, champion {st.champion or '–'}"
            why = f": {st.reason}" if st.reason else ""
            # Decisions on a finished job's last candidates may still come; states and examples not.
            if not met and st.ended and (not champion or st.state != FINISHED):
                raise JobFailedError(f"{how}, and will not be what was waited for{why}")
            if timeout is not None and time.monotonic() - begun > timeout:
                raise JobFailedError(f"{how}, after {timeout:g} s{why}")
            time.sleep(pause)
            pause = min(1.5 * pause, 0.25)

    def pause(self) -> JobStatus:
        """Stops training; the state stays."""
        return self._note(self._command("pause", job=self.name))

    def resume(self, max_bad_rows: int | str | None = None) -> JobStatus:
        """Goes on after a pause. Rows put aside so far are accepted; `max_bad_rows`, a number or a
        share such as "1%", is a new budget."""
        args = {} if max_bad_rows is None else {"max_bad_rows": str(max_bad_rows)}
        return self._note(self._command("resume", job=self.name, **args))

    def finish(self) -> JobStatus:
        """Ends it after a last snapshot."""
        return self._note(self._command("finish", job=self.name))

    def cancel(self) -> JobStatus:
        """Ends it without a last snapshot."""
        return self._note(self._command("cancel", job=self.name))

    def savepoint(self, label: str = "", why: str = "") -> dict[str, Any]:
        """Takes a snapshot now and keeps it by name until it is deleted. Returns its record."""
        out: dict[str, Any] = self._command("savepoint", job=self.name, label=label, why=why)
        return out

    def savepoints(self) -> list[dict[str, Any]]:
        """Lists what is kept."""
        return list(self._command("savepoints", job=self.name) or [])

    def delete_savepoint(self, label: str) -> None:
        """Lets go what a label keeps."""
        self._command("delete-savepoint", job=self.name, label=label)

    def versions(self) -> list[Version]:
        """Returns the versions of the job's model so far, oldest first."""
        try:
            return self._versions(self.status().model or self.name)
        except NotFoundError:
            return []

    def _repr_html_(self) -> str:
        st = self.status()
        return display.job_html(st, self._history, self.versions())
