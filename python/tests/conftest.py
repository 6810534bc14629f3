"""One node for all tests; without the program they are skipped, unless $TIDEMILL_REQUIRE is set."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import tidemill
from tidemill.local import find_binary

REPOSITORY = Path(__file__).resolve().parents[2]
numbers = itertools.count(1)


@pytest.fixture(scope="session")
def binary() -> Path:
    try:
        return find_binary()
    except tidemill.NotFoundError as e:
        if os.environ.get("TIDEMILL_REQUIRE"):
            raise
        pytest.skip(str(e))


def with_engine(binary: Path) -> None:
    """Skips the test where the program is built without the engine tensorflow, unless $TIDEMILL_REQUIRE_TENSORFLOW is set."""
    out = subprocess.run([str(binary), "doctor", "--data-dir", os.devnull], capture_output=True, text=True, timeout=120)
    if "engine tensorflow: version" not in out.stdout + out.stderr:
        if os.environ.get("TIDEMILL_REQUIRE_TENSORFLOW"):
            pytest.fail(f"the engine tensorflow cannot be used: {out.stdout}{out.stderr}")
        pytest.skip("this tidemill is built without the engine tensorflow (make tensorflow)")


@pytest.fixture(scope="session")
def node(binary: Path) -> Iterator[tidemill.LocalNode]:
    with tidemill.local(binary=binary) as n:
        yield n


@pytest.fixture
def client(node: tidemill.LocalNode) -> tidemill.Client:
    return node.client


@pytest.fixture
def topic() -> str:
    """A name that no other test uses."""
    return f"topic-{next(numbers)}"


@pytest.fixture(scope="session")
def command(binary: Path, node: tidemill.LocalNode) -> Callable[..., str]:
    """Runs the program against the node and returns its output."""

    def run(*args: str) -> str:
        return subprocess.run(
            [str(binary), *args, "--data-dir", str(node.data_dir)], check=True, capture_output=True, text=True, timeout=120
        ).stdout

    return run


def clicks(rows: int, seed: int = 1) -> pa.Table:
    """Rows whose label follows from `user` and `hour`, with a little noise."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 20, rows)
    hour = rng.integers(0, 24, rows)
    clicked = ((user % 3 == 0) ^ (hour > 12)) ^ (rng.random(rows) < 0.05)
    return pa.table(
        {
            "user": [f"u{u}" for u in user],
            "hour": pa.array(hour, pa.int64()),
            "price": pa.array(rng.normal(size=rows)),
            "clicked": pa.array(clicked.astype(np.int64)),
        }
    )


def spec(model: str, topic: str) -> tidemill.JobSpec:
    """A job that publishes quickly on such rows."""
    return tidemill.JobSpec(
        model=model,
        stream=tidemill.Stream(topic),
        label=tidemill.Label("clicked", positive=1),
        features=[
            tidemill.Feature("user", hash={}),
            tidemill.Feature("hour", bucketize={"uniform": [0, 24, 9]}),
            tidemill.Feature(cross=["user", "hour"]),
        ],
        architecture=tidemill.Architecture("logistic"),
        optimizer=tidemill.Optimizers(sparse={"adagrad": {"lr": 0.3}}),
        train=tidemill.Train(batch=16, staleness=0, linger="20ms", snapshot={"every": "400 rows"}),
        gate=tidemill.Gate(mode="off"),
    )


def trained(client: tidemill.Client, topic: str, rows: int = 2000) -> tidemill.Job:
    """A finished job on `rows` such rows that serves, named as its topic."""
    client.produce(topic, clicks(rows), partitions=2)
    job = client.submit(spec(topic, topic), until_end=True)
    job.wait(timeout=120)
    await_version(client, topic, rows)
    return job


def await_version(client: tidemill.Client, model: str, examples: int) -> None:
    """Waits until a version of so many examples serves: the last ones are published after the job's end."""
    end = time.monotonic() + 60
    while True:
        try:
            e = client.explain(model)
            if e.examples >= examples and client.predict(model, clicks(1)).version == e.number:
                return
        except tidemill.NotFoundError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)
