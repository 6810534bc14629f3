from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import REPOSITORY, await_version, clicks, spec, trained

import tidemill

pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def job(node: tidemill.LocalNode) -> tidemill.Job:
    return trained(node.client, "clicks")


def test_predictions_are_by_one_version_and_right(client: tidemill.Client, job: tidemill.Job) -> None:
    table = clicks(1000, seed=9)
    got = client.predict("clicks", table)
    assert got.version == client.explain("clicks").number
    assert got.values.shape == (1000,)
    assert got.values.dtype == np.float32
    assert np.mean((got.values > 0.5) == table["clicked"].to_numpy()) > 0.6
    one = client.predict("clicks", table, version=got.version - 1)
    assert one.version == got.version - 1
    assert not np.array_equal(one.values, got.values)
    assert client.inputs("clicks") == {"user": "BYTES", "hour": "INT64"}


def test_rows_of_all_kinds_get_the_same(client: tidemill.Client, job: tidemill.Job) -> None:
    table = clicks(40, seed=5)
    want = client.predict("clicks", table).values
    frame = table.to_pandas()
    frame.index = range(100, 140)
    asked: list[Any] = [
        frame,
        table.to_pydict(),
        table.to_pylist(),
        table.select(["hour", "user"]),
        table.set_column(1, "hour", table["hour"].cast(pa.float64())),
        table.set_column(1, "hour", table["hour"].cast(pa.int8())),
        table.set_column(0, "user", table["user"].combine_chunks().dictionary_encode()),
        np.array([table["user"].to_pylist(), table["hour"].to_pylist()], dtype=object).T,
    ]
    for rows in asked:
        assert np.array_equal(client.predict("clicks", rows, batch_rows=7).values, want)
    got = client.predict("clicks", frame)
    assert list(got.to_pandas().index) == list(range(100, 140))
    assert got.to_arrow().column_names == ["prediction", "version"]
    assert np.asarray(got, dtype=np.float64).dtype == np.float64
    assert len(client.predict("clicks", table.slice(0, 0))) == 0


def test_predict_async(client: tidemill.Client, job: tidemill.Job) -> None:
    tables = [clicks(300, seed=s) for s in range(4)]

    async def ask() -> list[tidemill.Predictions]:
        return list(await asyncio.gather(*(client.predict_async("clicks", t) for t in tables)))

    for t, got in zip(tables, asyncio.run(ask()), strict=True):
        assert np.array_equal(got.values, client.predict("clicks", t).values)
    with pytest.raises(tidemill.NotFoundError, match='model "none"'):
        asyncio.run(client.predict_async("none", tables[0]))


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ({"user": ["u1"]}, "the rows have no column 'hour'"),
        ({"user": ["u1"], "hour": [None]}, "column 'hour': 1 values are missing"),
        ({"user": [1], "hour": [1]}, "column 'user' has values of type int64, and the model wants text"),
        ({"user": ["u1"], "hour": ["x"]}, "column 'hour' has values of type string, and the model wants a number"),
        ({"user": ["u1"], "hour": [0.5]}, "hour.*row 0.*whole number"),
        ({"user": ["u1"], "hour": [float("nan")]}, "hour.*row 0.*whole number"),
        (np.zeros((2, 3)), "the array has 3 columns where 2 are wanted: user, hour"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(client: tidemill.Client, job: tidemill.Job, rows: Any, text: str) -> None:
    with pytest.raises(tidemill.InvalidError, match=text):
        client.predict("clicks", rows)


def test_what_serves_can_be_changed_by_hand_and_says_why(client: tidemill.Client, topic: str) -> None:
    trained(client, topic)
    versions = client.versions(topic, evidence=True)
    assert [v.number for v in versions] == list(range(1, len(versions) + 1))
    assert versions[-1].serves
    assert versions[-1].examples == 2000
    record = client.promote(topic, 1, why="a test")
    assert (record.version, record.kind, record.why) == (1, "promote", "a test")
    e = client.explain(topic, 1)
    assert e.serves
    assert e.champion == record
    assert "<b>" in e._repr_html_()
    record = client.rollback(topic, why="another test")
    assert (record.version, record.kind) == (versions[-1].number, "rollback")
    assert client.explain(topic).number == versions[-1].number
    with pytest.raises(tidemill.InvalidError, match="why is missing"):
        client.promote(topic, 1, why=" ")
    with pytest.raises(tidemill.NotFoundError):
        client.promote(topic, 99, why="x")
    with pytest.raises(tidemill.NotFoundError, match="has no version 99"):
        client.explain(topic, 99)
    with pytest.raises(tidemill.InvalidError, match="version 0"):
        client.explain(topic, 0)


def test_a_job_is_followed_and_shows_itself(client: tidemill.Client, topic: str) -> None:
    client.produce(topic, clicks(4000))
    job = client.submit(spec(topic, topic), until_end=True)
    seen = list(job.watch(interval=0.01))
    assert seen[-1].state == "finished"
    assert seen[-1].examples == 4000
    assert [s.examples for s in seen] == sorted(s.examples for s in seen)
    assert seen[-1].progress.loss < seen[-1].progress.prior_loss
    await_version(client, topic, 4000)
    html = job._repr_html_()
    svg = ET.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])
    titles = [t.text or "" for t in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert sum(t.startswith("v") for t in titles) == len(job.versions())
    assert topic in [j.job for j in client.jobs()]
    with pytest.raises(tidemill.InvalidError, match="nothing runs"):
        job.pause()
    with pytest.raises(tidemill.JobFailedError, match="will not be what was waited for"):
        job.wait("running")
    with pytest.raises(tidemill.InvalidError, match="unknown state"):
        job.wait("done")


def test_who_waited_for_a_version_is_answered_at_once(client: tidemill.Client, topic: str) -> None:
    client.produce(topic, clicks(500))
    for k in range(5):
        name = f"{topic}-{k}"
        client.submit(spec(name, topic), until_end=True).wait(champion=1, timeout=60)
        assert len(client.predict(name, clicks(3))) == 3


def test_a_job_is_paused_kept_and_gone_on_with(client: tidemill.Client, topic: str) -> None:
    client.produce(topic, clicks(1000))
    job = client.submit(spec(topic, topic).to_dict())
    job.wait(examples=1000, timeout=60)
    with pytest.raises(tidemill.JobFailedError, match="after 0.2 s"):
        job.wait(timeout=0.2)
    with pytest.raises(tidemill.ExistsError):
        client.submit(spec(topic, topic))
    assert job.pause().state == "paused"
    assert job.resume().state == "running"
    kept = job.savepoint("good", why="known good")
    assert [s["name"] for s in job.savepoints()] == ["good"]
    assert kept["examples"] == 1000
    assert job.finish().state == "finished"
    more = client.submit(spec(topic + "-b", topic), start_from=f"{topic}/good", until_end=True)
    assert more.wait(timeout=60).examples == 1000
    job.delete_savepoint("good")
    assert job.savepoints() == []


def test_a_spec_is_checked_whole_and_problems_name_the_field(client: tidemill.Client, topic: str) -> None:
    client.produce(topic, clicks(10))
    bad = spec("m", topic).to_dict()
    bad["features"][1]["bucketise"] = {}
    bad["architecture"]["kind"] = "logistc"
    bad["train"]["batch"] = "many"
    with pytest.raises(tidemill.InvalidError) as e:
        client.submit(bad)
    assert [p.field for p in e.value.problems] == ["features[1].bucketise", "architecture.kind", "train.batch"]
    assert "did you mean logistic?" in str(e.value)
    good = spec("m", topic)
    good.label.column = "clickd"
    with pytest.raises(tidemill.InvalidError, match=r"label.column: .*clickd.*clicked"):
        client.submit(good)
    with pytest.raises(tidemill.InvalidError, match=r"stream.topic: .*nowhere.*produce rows into the topic first"):
        client.submit(spec("m", "nowhere"))
    with pytest.raises(tidemill.InvalidError, match="int is no spec"):
        client.submit(3)  # type: ignore[arg-type]


def test_a_spec_as_text_or_file_has_problems_by_line(client: tidemill.Client, tmp_path: Path, topic: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("model: m\nstream: {topic: t}\nfeatures: [{column: a, clipp: [0, 1]}]\n")
    with pytest.raises(tidemill.InvalidError, match=r"job.yaml:3:\d+: unknown key .clipp.") as e:
        client.submit(file)
    assert e.value.problems[-1].line == 3 or e.value.problems[0].line in (1, 3)
    with pytest.raises(tidemill.NotFoundError, match="gone.yaml"):
        client.submit("gone.yaml")
    text = (REPOSITORY / "examples" / "clicks" / "job.yaml").read_text()
    client.produce(topic, pd.read_csv(REPOSITORY / "examples" / "clicks" / "clicks.csv", parse_dates=["ts"]).head(500))
    yaml = text.replace("model: clicks", f"model: {topic}").replace("topic: clicks", f"topic: {topic}")
    assert client.submit(yaml, until_end=True).wait(timeout=60).examples == 500


def test_unknown_things(client: tidemill.Client) -> None:
    with pytest.raises(tidemill.NotFoundError, match='no job "clickz"'):
        client.job("clickz").status()
    with pytest.raises(tidemill.NotFoundError, match='model "clickz"'):
        client.predict("clickz", {"a": [1]})
    with pytest.raises(tidemill.NotFoundError, match='model "clickz" has no version'):
        client.versions("clickz")
    with pytest.raises(tidemill.InvalidError, match='unknown command "dance"'):
        client.command("dance")


def test_addresses(tmp_path: Path, node: tidemill.LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    a = tidemill.connect("tidemill://10.0.0.5").addresses
    assert (a.rpc, a.stream, a.serving) == ("10.0.0.5:7947", "nats://10.0.0.5:4222", "10.0.0.5:8500")
    a = tidemill.connect("[::1]:1", stream="[::1]:2", serving="h:3").addresses
    assert (a.rpc, a.stream, a.serving) == ("[::1]:1", "nats://[::1]:2", "h:3")
    monkeypatch.setenv("TIDEMILL_DATA_DIR", str(node.data_dir))
    assert tidemill.connect().addresses == tidemill.connect(node.data_dir).addresses
    assert tidemill.connect(node.data_dir.as_uri()).addresses.rpc == node.client.addresses.rpc
    with pytest.raises(tidemill.NotFoundError, match="no node has run in data directory"):
        tidemill.connect(tmp_path)
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(tidemill.CorruptError, match=r"node.json"):
        tidemill.connect(tmp_path)
    with pytest.raises(tidemill.InvalidError, match="http:// is no way to a node"):
        tidemill.connect("http://h:1")
    with pytest.raises(tidemill.InvalidError, match="is not an address"):
        tidemill.connect("tidemill://h:port")


def test_nobody_answers() -> None:
    with tidemill.connect("127.0.0.1:9", serving="127.0.0.1:9") as c:
        with pytest.raises(tidemill.UnavailableError, match="no node answers at 127.0.0.1:9; start one"):
            c.jobs()
        with pytest.raises(tidemill.UnavailableError, match="no serving node answers at 127.0.0.1:9"):
            c.predict("m", {"a": [1]})


def test_the_shared_protocol_can_be_defined_by_others_too() -> None:
    """Other clients of the Open Inference Protocol put messages of these names into the common pool."""
    from google.protobuf import descriptor_pool

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
