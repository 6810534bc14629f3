"""Estimators with scikit-learn's interface that train and predict on a Tidemill node.

Each `fit` is a job: the rows go into a topic of its own, as often as `epochs` says, the job ends with
them, its last version serves, and the topic is deleted. `partial_fit` is a job that starts from what
the one before has trained. Predictions come from serving, by the version of the fit.

Without a `url` the node is one that this process starts and shares between all estimators; what was
fitted there is gone with the process, so estimators that are to be kept need the `url` of a node that
lasts. Models of earlier fits stay on the node until it ends."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from .client import Client, connect
from .errors import InvalidError, NotFoundError
from .local import LocalNode, local
from .spec import Architecture, Feature, Gate, JobSpec, Label, Optimizers, Serve, Stream, Train

TIMEOUT = 600.0  # seconds that one fit may take
LOAD_TIMEOUT = 60.0  # seconds that serving may take to load a version
LABEL = "y"
CHUNK = 8192  # rows of one table

_lock = threading.Lock()
_nodes: dict[int, LocalNode] = {}  # by process: a fork has its own
_clients: dict[tuple[int, str], Client] = {}


def client_at(url: str | None) -> Client:
    """Returns the client of a node, one for each process; None is the process's own node."""
    pid = os.getpid()
    with _lock:
        if url is None:
            node = _nodes.get(pid)
            if node is None or not node.running:
                node = _nodes[pid] = local()
            return node.client
        key = (pid, os.fspath(url))
        if key not in _clients:
            _clients[key] = connect(url)
        return _clients[key]


class TidemillEstimator(BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor share.

    architecture: "auto" (linear), a kind such as "mlp", or a mapping as in a spec.
    epochs: how often `fit` goes over the rows, each time in another order.
    batch: rows of one step. learning_rate: of Adagrad.
    standardize: whether features get mean 0 and deviation 1, of the rows so far.
    random_state: decides the orders and the initial parameters; with an int equal fits give equal bits.
    url: of the node, as for `tidemill.connect`; None starts one."""

    def __init__(
        self,
        architecture: str | Mapping[str, Any] = "auto",
        *,
        epochs: int = 20,
        batch: int = 16,
        learning_rate: float = 0.2,
        standardize: bool = True,
        random_state: Any = 0,
        url: str | None = None,
    ) -> None:
        self.architecture = architecture
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.standardize = standardize
        self.random_state = random_state
        self.url = url

    def _label(self) -> Label:
        raise NotImplementedError

    def _kind(self) -> str:
        raise NotImplementedError

    def _spec(self, topic: str) -> JobSpec:
        features = [Feature(name, standardize={} if self.standardize else None) for name in names(int(self.n_features_in_))]
        if isinstance(self.architecture, str):
            arch: Any = Architecture(self._kind() if self.architecture == "auto" else self.architecture)
        else:
            arch = dict(self.architecture)
        step = {"adagrad": {"lr": float(self.learning_rate)}}
        return JobSpec(
            model=self.model_,
            stream=Stream(topic, from_="earliest"),
            label=self._label(),
            features=features,
            architecture=arch,
            optimizer=Optimizers(sparse=step, dense=step),
            train=Train(batch=int(self.batch), linger="1ms", staleness=0, snapshot={"every": "1000000000 rows"}),
            gate=Gate(mode="off"),
            serve=Serve(max_batch=4096),
            seed=self.seed_,
            shards=1,
        )

    def _begin(self) -> None:
        """Opens a model that nobody has."""
        for name in ("epochs", "batch"):
            if int(getattr(self, name)) < 1:
                raise InvalidError(f"{name}={getattr(self, name)} (give 1 or more)")
        self.model_ = f"sklearn-{uuid.uuid4().hex[:16]}"
        self.version_ = 0
        self.snapshot_ = 0
        self.examples_ = 0
        self._random_state = check_random_state(self.random_state)
        self.seed_ = int(self._random_state.randint(1, 2**31 - 1))

    def _train(self, X: npt.NDArray[np.float64], y: npt.NDArray[Any], epochs: int) -> None:
        """Trains the model on rows, from where it stands."""
        client = client_at(self.url)
        topic = f"{self.model_}-{self.snapshot_}"
        rows = pa.table(
            [*(pa.array(np.ascontiguousarray(X[:, i])) for i in range(X.shape[1])), pa.array(y)], [*names(X.shape[1]), LABEL]
        )

        def passes() -> Iterator[pa.Table]:
            for _ in range(epochs):
                mixed = rows.take(pa.array(self._random_state.permutation(len(rows))))
                for at in range(0, len(mixed), CHUNK):
                    yield mixed.slice(at, CHUNK)

        try:
            client.produce(topic, whole(passes()), id=topic, progress=False)
            start = f"{self.model_}/{self.snapshot_}" if self.snapshot_ else ""
            job = client.submit(self._spec(topic), until_end=True, start_from=start)
            st = job.wait(timeout=TIMEOUT)
            version = self._published(client, st.snapshot)
        finally:
            with contextlib.suppress(NotFoundError):
                client.delete_topic(topic)
        self.version_, self.snapshot_, self.examples_ = version, st.snapshot, st.examples
        self.node_ = os.fspath(self.url) if self.url is not None else client.addresses.rpc

    def _published(self, client: Client, snapshot: int) -> int:
        """Waits until serving has the version of a snapshot."""
        end = time.monotonic() + LOAD_TIMEOUT
        pause = 0.01
        while True:
            try:
                for v in reversed(client.versions(self.model_)):
                    if v.snapshot == snapshot and v.decision == "published":
                        client.inputs(self.model_, v.number)
                        return v.number
            except NotFoundError:
                if time.monotonic() > end:
                    raise
            if time.monotonic() > end:
                raise NotFoundError(f"the job of model {self.model_} has published no version: not found")
            time.sleep(pause)
            pause = min(1.5 * pause, 0.2)

    def _ask(self, X: Any) -> npt.NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if not self.version_:
            return np.zeros(len(X), dtype=np.float32)
        client = client_at(self.url)
        if self.url is None and client.addresses.rpc != self.node_:
            raise NotFoundError(
                "this estimator was fitted on the node of another process, which has ended or is not known here "
                "(fit it with url=… of a node that lasts)"
            )
        return client.predict(self.model_, X, version=self.version_, batch_rows=2048).values


def names(features: int) -> list[str]:
    """Returns the columns of so many features."""
    return [f"x{i}" for i in range(features)]


def whole(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Joins small tables, so that passes over few rows are few appends."""
    parts: list[pa.Table] = []
    for t in tables:
        parts.append(t)
        if sum(map(len, parts)) >= CHUNK:
            yield pa.concat_tables(parts).combine_chunks()
            parts = []
    if parts:
        yield pa.concat_tables(parts).combine_chunks()


class TidemillClassifier(ClassifierMixin, TidemillEstimator):  # type: ignore[misc]
    """Classifies by logistic or softmax regression, or by any architecture of Tidemill.

    Attributes after `fit`: `classes_`, `n_features_in_`, and on the node `model_`, `version_`,
    `snapshot_` and `examples_`. One class alone is predicted without a model."""

    def _label(self) -> Label:
        if len(self.classes_) == 2:
            return Label(LABEL, positive=1)
        return Label(LABEL, type="multiclass", classes=[str(k) for k in range(len(self.classes_))])

    def _kind(self) -> str:
        return "logistic" if len(self.classes_) == 2 else "softmax"

    def fit(self, X: Any, y: Any) -> TidemillClassifier:
        """Trains a new model."""
        X, y = self._checked(X, y, reset=True)
        self.classes_ = np.unique(y)
        self._begin()
        if len(self.classes_) > 1:
            self._train(X, np.searchsorted(self.classes_, y), int(self.epochs))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Sequence[Any] | None = None) -> TidemillClassifier:
        """Goes on with the model, once over the rows. The first call names all `classes`."""
        first = not hasattr(self, "classes_")
        X, y = self._checked(X, y, reset=first)
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self.classes_ = np.unique(np.asarray(classes))
            self._begin()
        elif classes is not None and not np.array_equal(self.classes_, np.unique(np.asarray(classes))):
            raise ValueError(f"classes={classes!r} is not the same as on the last call to partial_fit: {self.classes_!r}")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has labels {unknown.tolist()} that are none of the classes {self.classes_.tolist()}")
        if len(self.classes_) > 1:
            self._train(X, np.searchsorted(self.classes_, y), 1)
        return self

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
        X, y = validate_data(self, X, y, dtype=np.float64, reset=reset)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return X, y

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Returns the probability of each class, `[rows, classes]`."""
        check_is_fitted(self)
        p = self._ask(X).astype(np.float64)
        if len(self.classes_) == 1:
            return np.ones((len(p), 1))
        if len(self.classes_) == 2:
            return np.column_stack([1 - p, p])
        out: npt.NDArray[np.float64] = p / p.sum(axis=1, keepdims=True)
        return out

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Returns the likeliest class of each row."""
        check_is_fitted(self)
        out: npt.NDArray[Any] = self.classes_[np.argmax(self.predict_proba(X), axis=1)]
        return out


class TidemillRegressor(RegressorMixin, TidemillEstimator):  # type: ignore[misc]
    """Regresses by a linear model, or by any architecture of Tidemill. The model on the node predicts
    the target less `y_mean_`, in units of `y_scale_`, both of the first rows that it was given."""

    def _label(self) -> Label:
        return Label(LABEL, type="regression")

    def _kind(self) -> str:
        return "linear"

    def fit(self, X: Any, y: Any) -> TidemillRegressor:
        """Trains a new model."""
        X, y = self._checked(X, y, reset=True)
        self._measure(y)
        self._begin()
        self._train(X, (y - self.y_mean_) / self.y_scale_, int(self.epochs))
        return self

    def partial_fit(self, X: Any, y: Any) -> TidemillRegressor:
        """Goes on with the model, once over the rows."""
        first = not hasattr(self, "y_mean_")
        X, y = self._checked(X, y, reset=first)
        if first:
            self._measure(y)
            self._begin()
        self._train(X, (y - self.y_mean_) / self.y_scale_, 1)
        return self

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, reset=reset)
        return X, column_or_1d(y, warn=True).astype(np.float64)

    def _measure(self, y: npt.NDArray[np.float64]) -> None:
        self.y_mean_ = float(np.mean(y))
        deviation = float(np.std(y))
        self.y_scale_ = deviation if deviation > 0 else 1.0

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Returns a value for each row."""
        check_is_fitted(self)
        out: npt.NDArray[np.float64] = self._ask(X).astype(np.float64) * self.y_scale_ + self.y_mean_
        return out


__all__ = ["TidemillClassifier", "TidemillRegressor"]
