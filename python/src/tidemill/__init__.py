"""Tidemill from Python: rows into the stream, jobs, versions, predictions.

    import tidemill

    with tidemill.connect() as client:
        client.produce("clicks", table)
        job = client.submit("job.yaml", until_end=True)
        job.wait(champion=1)
        print(client.predict("clicks", table))

`connect` finds a node, `local` starts one for this process, `load_snapshot` reads what was trained,
and `tidemill.sklearn` has estimators. Errors are the kinds of `tidemill.errors`."""

from ._stream.produce import Produced, Progress
from ._version import __version__
from .client import Client, connect
from .errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    ExistsError,
    FencedError,
    FullError,
    InvalidError,
    JobFailedError,
    NotFoundError,
    NotReadyError,
    Problem,
    TidemillError,
    UnavailableError,
)
from .job import Job, JobStatus, Report
from .local import LocalNode, local
from .models import Champion, Check, Decision, Explanation, Version
from .predict import Predictions
from .snapshot import Snapshot, load_snapshot
from .spec import Architecture, Feature, Gate, JobSpec, Label, Optimizers, Serve, Stream, Time, Train

__all__ = [
    "Architecture",
    "Champion",
    "Check",
    "Client",
    "ConflictError",
    "CorruptError",
    "Decision",
    "DeniedError",
    "ExistsError",
    "Explanation",
    "Feature",
    "FencedError",
    "FullError",
    "Gate",
    "InvalidError",
    "Job",
    "JobFailedError",
    "JobSpec",
    "JobStatus",
    "Label",
    "LocalNode",
    "NotFoundError",
    "NotReadyError",
    "Optimizers",
    "Predictions",
    "Problem",
    "Produced",
    "Progress",
    "Report",
    "Serve",
    "Snapshot",
    "Stream",
    "TidemillError",
    "Time",
    "Train",
    "UnavailableError",
    "Version",
    "__version__",
    "connect",
    "load_snapshot",
    "local",
]
