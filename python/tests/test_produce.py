from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clicks

import tidemill
from tidemill._stream.schema import align, decode, fingerprint
from tidemill._stream.topic import Stream, Topic, TransientError
from tidemill.errors import InvalidError


def opened(client: tidemill.Client, name: str) -> Topic:
    t = client._loop.run(client._stream().open(name))
    assert t is not None
    return t


def read(client: tidemill.Client, name: str) -> list[pa.Table]:
    """Reads the rows of each partition back, and checks that offsets are dense."""
    t = opened(client, name)
    out = []
    for p in range(t.record.partitions):
        seq, parts, offset = 1, [t.schema.empty_table()], 0
        while (m := client._loop.run(t.stored(p, {"seq": seq, "next_by_subj": t.subject(p, "*")}))) is not None:
            assert m.frame.first == offset
            written = next(s for s in t.record.schemas if int(s["fingerprint"], 16) == m.frame.fingerprint)
            own = decode(base64.b64decode(written["schema"]))
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(pa.py_buffer(m.frame.body)), own)
            assert batch.num_rows == m.frame.rows
            parts.append(align(pa.Table.from_batches([batch]), t.schema, name))
            seq, offset = m.seq + 1, m.frame.next
        out.append(pa.concat_tables(parts))
    return out


def test_rows_are_there_once_in_turn(client: tidemill.Client, topic: str) -> None:
    table = clicks(10_000)
    seen: list[tidemill.Progress] = []
    got = client.produce(topic, table, partitions=3, progress=seen.append)
    assert (got.rows, got.skipped, sum(got.next)) == (10_000, 0, 10_000)
    assert seen[-1] == tidemill.Progress(10_000, 0, 10_000)
    again = client.produce(topic, table.slice(0, 4000))  # another table
    assert again.rows == 4000
    once_more = client.produce(topic, pa.concat_tables([table.slice(0, 17), table.slice(17)]))
    assert (once_more.rows, once_more.skipped, once_more.next) == (0, 10_000, [0, 0, 0])
    for p, part in enumerate(read(client, topic)):
        assert part.slice(0, len(range(p, 10_000, 3))).equals(table.take(pa.array(range(p, 10_000, 3))))
    assert topic in client.topics()


def test_an_interrupted_iterator_goes_on(client: tidemill.Client, topic: str) -> None:
    table = clicks(9_000)

    def pieces(size: int, stop: int | None = None) -> Iterator[pa.Table]:
        for at in range(0, len(table), size):
            if stop is not None and at >= stop:
                raise OSError("the input broke")
            yield table.slice(at, size)

    with pytest.raises(OSError, match="the input broke"):
        client.produce(topic, pieces(700, 4200), id="day-1", partitions=2)
    got = client.produce(topic, pieces(1000), id="day-1")
    assert (got.rows, got.skipped) == (4800, 4200)
    assert client.produce(topic, pieces(123), id="day-1").rows == 0
    both = read(client, topic)
    assert sum(map(len, both)) == 9000
    assert both[1].equals(table.take(pa.array(range(1, 9000, 2))))
    with pytest.raises(InvalidError, match="give id="):
        client.produce(topic, pieces(1000))


def test_the_command_and_the_package_know_each_others_inputs(
    client: tidemill.Client, command: Callable[..., str], topic: str, tmp_path: Path
) -> None:
    file, other = tmp_path / "a.parquet", tmp_path / "b.arrow"
    pq.write_table(clicks(3000), file)
    with pa.OSFile(str(other), "wb") as out, pa.ipc.new_file(out, clicks(1).schema) as w:
        w.write_table(clicks(2000, seed=2), max_chunksize=300)
    command("produce", topic, str(file), "--partitions", "2", "--key", "user")
    assert fingerprint(opened(client, topic).schema) == opened(client, topic).print
    got = client.produce(topic, str(file), key="user")
    assert (got.rows, got.skipped) == (0, 3000)
    got = client.produce(topic, other, key="user")
    assert (got.rows, got.skipped) == (2000, 0)
    assert '"skipped":2000' in command("produce", topic, str(other), "--key", "user", "--json")
    # The command's partitions by key are the package's.
    users = [set(part["user"].to_pylist()) for part in read(client, topic)]
    assert users[0].isdisjoint(users[1])
    # An id counts the same way too.
    client.produce(topic, file, id="mine")
    assert '"skipped":3000' in command("produce", topic, str(file), "--id", "mine", "--json")


@pytest.mark.parametrize(
    "values", [["a", None, "b"] * 50, list(range(150)), [0.5 * i for i in range(150)], [True, False, None] * 50]
)
def test_keys_go_where_the_command_sends_them(
    client: tidemill.Client, command: Callable[..., str], topic: str, tmp_path: Path, values: list[Any]
) -> None:
    table = pa.table({"k": values, "i": list(range(150))})
    pq.write_table(table, tmp_path / "x.parquet")
    command("produce", topic, str(tmp_path / "x.parquet"), "--partitions", "3", "--key", "k")
    client.produce(topic + "-py", table, partitions=3, key="k")
    for a, b in zip(read(client, topic), read(client, topic + "-py"), strict=True):
        assert a["i"].equals(b["i"])


def test_a_lost_answer_is_no_doubt(client: tidemill.Client, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third append's answer is lost, after the rows were stored or before."""
    real, calls = Stream.send, [0]

    async def lossy(self: Stream, subject: str, data: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
        if subject.startswith("tm."):
            calls[0] += 1
            if calls[0] % 3 == 0:
                if calls[0] % 2 == 0:
                    await real(self, subject, data, headers)
                raise TransientError("the answer is lost")
        return await real(self, subject, data, headers)

    monkeypatch.setattr(Stream, "send", lossy)
    table = clicks(30_000)
    got = client.produce(topic, (table.slice(at, 900) for at in range(0, 30_000, 900)), id="x", partitions=2)
    monkeypatch.undo()
    assert calls[0] > 60
    assert got.rows == 30_000
    for p, part in enumerate(read(client, topic)):
        assert part.equals(table.take(pa.array(range(p, 30_000, 2))))


def test_two_at_once_add_each_row_once(client: tidemill.Client, node: tidemill.LocalNode, topic: str) -> None:
    import threading

    table = clicks(12_000)
    client.produce(topic, table.slice(0, 0), partitions=2, id="begin")
    errors: list[BaseException] = []

    def run(size: int) -> None:
        try:
            with tidemill.connect(node.data_dir) as c:
                c.produce(topic, (table.slice(at, size) for at in range(0, 12_000, size)), id="x")
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(size,)) for size in (700, 1100, 300)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    for p, part in enumerate(read(client, topic)):
        assert part.equals(table.take(pa.array(range(p, 12_000, 2))))


def test_new_columns_are_added_and_old_rows_have_none(client: tidemill.Client, topic: str) -> None:
    client.produce(topic, {"a": [1, 2]})
    client.produce(topic, {"b": ["x"], "a": [3]})
    client.produce(topic, {"a": [4.0]})
    assert read(client, topic)[0].to_pydict() == {"a": [1, 2, 3, 4], "b": [None, None, "x", None]}


def test_a_partition_grows_beyond_what_it_begins_with(client: tidemill.Client, topic: str) -> None:
    rng = np.random.default_rng(3)
    blob = [rng.bytes(400_000) for _ in range(52)]  # 20 MB; a partition begins with 16
    got = client.produce(topic, {"x": pa.array(blob, pa.binary())})
    assert got.rows == 52
    assert read(client, topic)[0]["x"].to_pylist() == blob


@pytest.mark.parametrize(
    ("rows", "args", "text"),
    [
        ({"a": ["x"]}, {}, "column 'a' is int64 in topic '.*' and string here"),
        ({"a": [0.5]}, {}, "column 'a' is int64"),
        ({"a": [float("nan")]}, {}, "column 'a' is int64"),
        ({"a": [1]}, {"key": "b"}, "there is no key column 'b'"),
        ({"a": [1]}, {"partitions": 7}, "has 1 partitions, not 7"),
        ({"a": [1], "b": [None]}, {}, "column 'b' holds no value at all"),
        ({"a": [1], "b": [b"x" * 1_000_000]}, {}, "one row takes"),
        ({"a": [1]}, {"id": "x\ny"}, "the id"),
        ("rows.csv", {}, r"a file \.csv is not read here"),
        ([], {}, "no columns"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(client: tidemill.Client, topic: str, rows: Any, args: Any, text: str) -> None:
    client.produce(topic, {"a": [1]})
    with pytest.raises(InvalidError, match=text):
        client.produce(topic, rows, **args)
    assert read(client, topic)[0]["a"].to_pylist() == [1]


@pytest.mark.parametrize("name", ["", "a b", "..", "x" * 129])
def test_bad_names(client: tidemill.Client, name: str) -> None:
    with pytest.raises(InvalidError, match="topic name"):
        client.produce(name, {"a": [1]})


def test_the_command_reads_what_the_package_made(client: tidemill.Client, command: Callable[..., str], topic: str) -> None:
    t = pa.table(
        {
            "s": ["x"],
            "é\n": [1],
            "f": pa.array([1.5], pa.float32()),
            "t": pa.array([1], pa.timestamp("us", "UTC")),
            "t2": pa.array([1], pa.timestamp("ms")),
            "d": pa.array([1], pa.date32()),
            "l": [[1, 2]],
            "v": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
            "y": [b"b"],
            "b": [True],
            "u": pa.array([1], pa.uint8()),
        }
    )
    client.produce(topic, t)
    assert "timestamp" in command("topic", topic, "--json")


def test_no_stream_answers() -> None:
    with (
        tidemill.connect("127.0.0.1:9", stream="nats://127.0.0.1:9") as c,
        pytest.raises(tidemill.UnavailableError, match="no stream answers at nats://127.0.0.1:9"),
    ):
        c.produce("t", {"a": [1]})


def test_a_program_that_ends_in_the_middle_loses_nothing(node: tidemill.LocalNode, client: tidemill.Client, topic: str) -> None:
    import sys

    script = (
        "import sys, os, tidemill, pyarrow as pa\n"
        f"c = tidemill.connect({str(node.data_dir)!r})\n"
        "def rows():\n"
        "    for k in range(100):\n"
        "        if k == 60: os._exit(3)\n"
        "        yield pa.table({'i': list(range(100 * k, 100 * k + 100))})\n"
        f"c.produce({topic!r}, rows(), id='x', partitions=2)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 3
    got = client.produce(topic, iter([pa.table({"i": list(range(10_000))})]), id="x")
    assert (got.rows, got.skipped) == (4000, 6000)
    assert [part["i"].to_pylist() for part in read(client, topic)] == [list(range(p, 10_000, 2)) for p in range(2)]
