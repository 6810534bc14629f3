from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tidemill
from tidemill.local import find_binary


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "\nState:\tZ" in status.read_text())


def gone(pid: int) -> bool:
    end = time.monotonic() + 60
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def node_pid(data: Path) -> int:
    import json

    return int(json.loads((data / "node.json").read_text())["pid"])


def test_a_node_ends_with_its_block_and_leaves_nothing(binary: Path, tmp_path: Path) -> None:
    with tidemill.local(binary=binary) as n:
        pid, data = node_pid(n.data_dir), n.data_dir
        assert n.client.jobs() == []
    assert not n.running
    assert gone(pid)
    assert not data.exists()
    with tidemill.local(tmp_path / "kept", binary=binary) as n:
        n.client.produce("t", {"a": [1]})
    with tidemill.local(tmp_path / "kept", binary=binary) as n:
        assert n.client.topics() == ["t"]


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_node_ends_with_its_process(binary: Path, how: str) -> None:
    script = (
        "import tidemill, sys, time\nn = tidemill.local()\nprint(n.data_dir, flush=True)\n"
        "if sys.argv[1] == 'kill': time.sleep(600)\n"
    )
    env = {**os.environ, "TIDEMILL_BINARY": str(binary)}
    with subprocess.Popen([sys.executable, "-c", script, how], stdout=subprocess.PIPE, text=True, env=env) as p:
        assert p.stdout is not None
        data = Path(p.stdout.readline().strip())
        if how == "kill":
            pid = node_pid(data)
            p.send_signal(signal.SIGKILL)
            p.wait()
            assert gone(pid)
        else:
            assert p.wait(60) == 0
            assert not data.exists()


def test_what_is_wrong_is_said(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(tidemill.InvalidError, match="no directory"):
        tidemill.local(tmp_path / "file")
    with tidemill.local(tmp_path / "d", binary=binary), pytest.raises(tidemill.UnavailableError, match="ended while it started"):
        tidemill.local(tmp_path / "d", binary=binary)
    monkeypatch.setenv("TIDEMILL_BINARY", str(tmp_path / "none"))
    with pytest.raises(tidemill.NotFoundError, match="which is no program"):
        find_binary()
    monkeypatch.delenv("TIDEMILL_BINARY")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(tidemill.NotFoundError, match="go build"):
        find_binary()
