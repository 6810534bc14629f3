"""A Keras model trained through the engine tensorflow: workers and parameter servers in processes of their own, one of which is
killed; the gate decides; what is served are Keras' predictions with the same weights."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from conftest import REPOSITORY, with_engine

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytest.importorskip("tensorflow", reason="the export needs TensorFlow: pip install './python[keras]'")
keras = pytest.importorskip("keras")

import tidemill  # noqa: E402
import tidemill.keras  # noqa: E402

L = keras.layers
PATIENCE = 240.0  # seconds


@pytest.fixture(scope="module")
def program(binary: Path) -> Path:
    """The program, built with the engine."""
    with_engine(binary)
    return binary


def ratings() -> pa.Table:
    """MovieLens-100k where it lies beside the project, else ratings that follow from hidden tastes."""
    rows = int(os.environ.get("TIDEMILL_TEST_ROWS", "20000"))
    path = REPOSITORY.parent / "shared" / "data" / "ml-100k-events.csv"
    if path.exists():
        table = pyarrow.csv.read_csv(path).slice(0, rows)
        age = pa.array(table["age"].to_numpy() / 50)
        return table.select(["user_id", "item_id", "rating"]).append_column("age", age)
    rng = np.random.default_rng(3)
    taste, kind = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    user, item = rng.integers(0, 300, rows), rng.integers(0, 200, rows)
    score = (taste[user] * kind[item]).sum(1) + rng.normal(scale=0.5, size=rows)
    return pa.table(
        {
            "user_id": user,
            "item_id": item,
            "age": rng.integers(18, 70, rows),
            "rating": np.clip(np.round(3 + score), 1, 5).astype(int),
        }
    )


def model(users: int, items: int) -> Any:
    keras.utils.set_random_seed(1)
    user, item = keras.Input((), name="user", dtype="int32"), keras.Input((), name="item", dtype="int32")
    age = keras.Input((1,), name="age")
    x = L.Concatenate()([L.Embedding(users, 8, name="users")(user), L.Embedding(items, 8, name="items")(item), age])
    x = L.BatchNormalization(momentum=0.9)(L.Dense(16)(x))
    x = L.Dropout(0.2)(L.Activation("relu")(x))
    made = keras.Model([user, item, age], L.Dense(1, activation="sigmoid")(x))
    made.compile(loss="binary_crossentropy")
    return made


class Cluster:
    """Nodes of this machine, each a process of its own."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *flags: str) -> dict[str, Any]:
        data = self.folder / name
        data.mkdir()
        with (self.folder / f"{name}.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                [str(self.program), "start", "--listen", "127.0.0.1:0", "--data-dir", str(data), "--log-level", "warn", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        info = data / "node.json"
        self.until(lambda: info.exists() and info.stat().st_size > 0, f"{name} is there")
        out: dict[str, Any] = json.loads(info.read_text())
        return out

    def until(self, true: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            for name, p in self.nodes.items():
                assert p.poll() is None, f"{name} has ended: {(self.folder / f'{name}.log').read_text()[-2000:]}"
            assert time.monotonic() < end, f"after {PATIENCE:g} s it is not true that {what}: " + "\n".join(
                (self.folder / f"{name}.log").read_text()[-1000:] for name in self.nodes
            )
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        p = self.nodes.pop(name)
        p.kill()
        p.wait()

    def stop(self) -> None:
        for p in reversed(self.nodes.values()):
            p.terminate()
        for p in self.nodes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(20)
            p.kill()
            p.wait()


@pytest.fixture
def cluster(program: Path, tmp_path: Path) -> Iterator[Cluster]:
    c = Cluster(program, tmp_path)
    try:
        yield c
    finally:
        c.stop()


@pytest.mark.parametrize("victim", ["worker", "ps"])
def test_a_model_is_trained_gated_and_served(victim: str, cluster: Cluster, tmp_path: Path) -> None:
    rows = ratings()
    user_ids, item_ids = sorted(set(rows["user_id"].to_pylist())), sorted(set(rows["item_id"].to_pylist()))
    made = model(len(user_ids), len(item_ids))
    exported = tidemill.keras.export(made, tmp_path / "ratings.graph")
    main = cluster.start("main", "--role", "stream,trainer,serving")
    for role in ("worker", "ps"):
        for k in (1, 2):
            cluster.start(f"{role}{k}", "--role", role, "--join", main["gossip"])
    with tidemill.connect(tmp_path / "main") as client:
        cluster.until(lambda: len(client.command("members")) == 5, "five nodes are known")
        client.produce("ratings", rows, partitions=2)
        job = client.submit(
            {
                "model": "ratings",
                "stream": {"topic": "ratings"},
                "label": {"column": "rating", "at_least": 4},
                "features": [
                    {"name": "user", "column": "user_id", "hash": {}},
                    {"name": "item", "column": "item_id", "hash": {}},
                    {"name": "age", "column": "age"},
                ],
                "architecture": exported.architecture,
                "optimizer": {"sparse": {"adagrad": {"lr": 0.1}}, "dense": {"adam": {"lr": 0.003}}},
                "train": {"batch": 64, "linger": "50ms", "snapshot": {"every": "2000 rows"}},
                "gate": {"min_examples": 500, "margin": 0.05},
            },
            until_end=True,
        )
        cluster.until(lambda: job.status().snapshot >= 2, "there are two snapshots")
        cluster.kill(f"{victim}2")
        status = job.wait(timeout=PATIENCE)
        assert status.examples == rows.num_rows  # each row once, whatever was killed
        assert status.progress.loss < status.progress.prior_loss

        some = rows.slice(rows.num_rows - 500)
        got: list[tidemill.Predictions] = []

        def answered() -> bool:
            with contextlib.suppress(tidemill.NotFoundError):  # no version yet, or it went while it was asked
                got.append(client.predict("ratings", some.drop_columns(["rating"])))
            return bool(got)

        cluster.until(answered, "a version answers")
        served = client.explain("ratings", got[0].version)
        assert served.decision == "published"
        assert "tensorflow" in served.profile
        snapshot = tidemill.load_snapshot(tmp_path / "main", job="ratings", number=served.snapshot)
        assert snapshot.compute_digest() == snapshot.digest == served.digest
        tidemill.keras.load_weights(made, snapshot, {"user": user_ids, "item": item_ids})

        at_user, at_item = {u: i for i, u in enumerate(user_ids)}, {m: i for i, m in enumerate(item_ids)}
        want = made.predict(
            [
                np.array([at_user[u] for u in some["user_id"].to_pylist()]),
                np.array([at_item[m] for m in some["item_id"].to_pylist()]),
                some["age"].to_numpy().astype(np.float32)[:, None],
            ],
            verbose=0,
        )[:, 0]
        assert np.abs(np.asarray(got[0]) - want).max() < 1e-5
