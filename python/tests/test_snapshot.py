from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import clicks, spec

import tidemill
from tidemill._ids import id_of
from tidemill.snapshot import merge, read_record, row_ids

LAYOUT = {"dim": 2, "state": 1, "average": True}


@pytest.fixture(scope="module")
def store(node: tidemill.LocalNode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a store with a job of many snapshots, most of which write what changed alone."""
    client, name = node.client, "layers"
    rng = np.random.default_rng(1)
    first = clicks(6000).append_column("wide", pa.array([f"w{i}" for i in range(6000)]))
    rest = clicks(3000, seed=2).append_column("wide", pa.array([f"w{i}" for i in rng.integers(0, 8000, 3000)]))
    client.produce(name, pa.concat_tables([first, rest]))
    s = spec(name, name)
    s.features = [*s.features, tidemill.Feature("wide", hash={})]
    s.architecture = tidemill.Architecture("deepfm", dim=3, hidden=[160, 120])
    s.optimizer = tidemill.Optimizers(sparse={"adagrad": {"lr": 0.1}}, average={"decay": 0.999})
    s.train = tidemill.Train(batch=64, staleness=0, snapshot={"every": "500 rows"})
    s.gate = None
    job = client.submit(s, until_end=True)
    job.wait("finished", timeout=120)
    to = tmp_path_factory.mktemp("copy") / "store"
    shutil.copytree(node.data_dir / "store" / "jobs" / name, to / "jobs" / name)
    return to


def kept(store: Path) -> list[int]:
    """Returns the numbers of the snapshots in a store, without fences; old ones may have been let go."""
    manifests = sorted((store / "jobs" / "layers" / "snapshot").glob("*/manifest.json"))
    return [int(m.parent.name) for m in manifests if not read_record(m, "manifest").get("fence")]


def test_every_snapshot_has_the_digest_that_it_names(store: Path, client: tidemill.Client) -> None:
    last = tidemill.load_snapshot(store)
    status = client.job("layers").status()
    assert (last.number, last.digest, last.examples, last.cut) == (status.snapshot, status.digest, 9000, status.cut)
    layered = 0
    for n in kept(store):
        s = tidemill.load_snapshot(store, number=n)
        assert s.compute_digest() == s.digest
        layered += any(b["name"].split("/")[3] != f"{n:09d}" for p in s.manifest["parts"] for b in p["blobs"])
    assert layered > 1
    ids, weights = last.table_weights(next(iter(last.tables)))
    assert len(np.unique(ids)) == len(ids) == len(weights)
    assert (np.diff(ids.astype(object)) > 0).all()
    assert {w.shape for w in last.weights.values()} >= {(160, 120)} or any(w.size == 160 * 120 for w in last.weights.values())
    assert set(last.averages) == set(last.weights)
    assert set(last.aux) >= {"transforms", "progress"}
    assert last.spec["model"] == "layers"


def test_a_snapshot_can_be_named_in_all_ways(store: Path, node: tidemill.LocalNode) -> None:
    n = kept(store)[-1]
    s = tidemill.load_snapshot(store, number=n)
    folder = store / "jobs" / "layers" / "snapshot" / f"{n:09d}"
    assert tidemill.load_snapshot(folder).digest == s.digest
    assert tidemill.load_snapshot(node.data_dir, job="layers").digest == s.digest
    fence = store / "jobs" / "other" / "snapshot" / "000000001" / "manifest.json"
    fence.parent.mkdir(parents=True)
    rest = b',"format":2,"fence":{"generation":1,"holder":"x"},"job":"other","number":1}'
    fence.write_bytes(b'{"checksum":"' + hashlib.sha256(rest).hexdigest().encode() + b'"' + rest)
    with pytest.raises(tidemill.NotFoundError, match="fences"):
        tidemill.load_snapshot(store, job="other", number=1)
    with pytest.raises(tidemill.NotFoundError, match="no snapshot yet"):
        tidemill.load_snapshot(store, job="other")
    with pytest.raises(tidemill.NotFoundError, match="say which"):
        tidemill.load_snapshot(store)
    shutil.rmtree(store / "jobs" / "other")
    with pytest.raises(tidemill.NotFoundError, match="no snapshot 999"):
        tidemill.load_snapshot(store, number=999)
    with pytest.raises(tidemill.NotFoundError, match="no job 'x'.*there are: layers"):
        tidemill.load_snapshot(store, job="x")
    with pytest.raises(tidemill.NotFoundError, match="no savepoint"):
        tidemill.load_snapshot(store, savepoint="x")
    with pytest.raises(tidemill.InvalidError, match="one snapshot already"):
        tidemill.load_snapshot(folder, number=3)
    with pytest.raises(tidemill.InvalidError, match="there is no store"):
        tidemill.load_snapshot(store.parent.parent)
    with pytest.raises(tidemill.NotFoundError, match="not found"):
        tidemill.load_snapshot(store / "nowhere")


@pytest.mark.parametrize("seed", range(25))
def test_damage_is_found(store: Path, seed: int) -> None:
    rng = random.Random(seed)
    s = tidemill.load_snapshot(store)
    names = [b["name"] for p in s.manifest["parts"] for b in p["blobs"]]
    names.append(f"jobs/layers/snapshot/{s.number:09d}/manifest.json")
    victim = store / rng.choice(names)
    whole = victim.read_bytes()
    data = bytearray(whole)
    kind = rng.randrange(3)
    if kind == 0:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data = data[: rng.randrange(len(data))]
    victim.unlink()
    try:
        if kind < 2:
            victim.write_bytes(data)
        elif victim.name == "manifest.json":
            victim.write_bytes(b"")
        with pytest.raises(tidemill.CorruptError):
            tidemill.load_snapshot(store)
    finally:
        victim.write_bytes(whole)


@pytest.mark.parametrize("seed", range(40))
def test_layers_are_put_together_as_one_would_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    want: dict[int, float] = {}
    layers = []
    for n in range(int(rng.integers(0, 7))):
        removed = n > 0 and rng.random() < 0.3
        ids = np.sort(rng.choice(40, int(rng.integers(0, 20)), replace=False)).astype(np.uint64)
        values = rng.normal(size=len(ids)).astype(np.float32)
        columns = {"id": pa.array(ids)}
        if not removed:
            columns |= {
                "weight": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(values, 2)), 2),
                "state": pa.FixedSizeListArray.from_arrays(pa.array(values), 1),
                "average": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(values, 2)), 2),
                "average_at": pa.array(np.full(len(ids), n, np.uint64)),
            }
        layers.append((f"{n:09d}", pa.table(columns), removed))
        for i, v in zip(ids.tolist(), values.tolist(), strict=True):
            if removed:
                want.pop(i, None)
            else:
                want[i] = v
    order = rng.permutation(len(layers))
    got = merge([layers[i] for i in order], LAYOUT)
    assert row_ids(got).tolist() == sorted(want)
    assert [row[0] for row in got["state"].to_pylist()] == [want[i] for i in sorted(want)]


def test_ids_are_those_of_the_server(client: tidemill.Client, node: tidemill.LocalNode, topic: str) -> None:
    rows = pa.table(
        {"user": pa.array(["a", "b", "ä"] * 20), "item": pa.array([-1, 0, 7] * 20), "clicked": pa.array([0, 1, 1] * 20)}
    )
    client.produce(topic, rows)
    job = spec(topic, topic)
    job.features = [tidemill.Feature("user", hash={"buckets": 1000}), tidemill.Feature("item", hash={})]
    client.submit(job, until_end=True).wait(timeout=120)
    ids, _ = tidemill.load_snapshot(node.data_dir, job=topic).table_weights("weights")
    want = {id_of("user", u, 1000) for u in ("a", "b", "ä")} | {id_of("item", i) for i in (-1, 0, 7)}
    assert set(ids.tolist()) == want
