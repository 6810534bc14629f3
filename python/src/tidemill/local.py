"""An embedded node: the command `tidemill start`, with ports and a directory of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from .client import Client, connect
from .errors import InvalidError, NotFoundError, TidemillError, UnavailableError

START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 20.0  # seconds that a node may take to drain

# The node ends when its standard input does, so also when this process is killed and cannot say so.
SCRIPT = 'exec 3<&0; "$@" 3<&- & node=$!; { cat <&3 >/dev/null; kill -TERM "$node" 2>/dev/null; } & wait "$node"'


def find_binary() -> Path:
    """Returns the binary: $TIDEMILL_BINARY, or else `tidemill` in the PATH, or else beside Python's
    scripts."""
    named = os.environ.get("TIDEMILL_BINARY")
    if named:
        p = Path(named)
        if not (p.is_file() and os.access(p, os.X_OK)):
            raise NotFoundError(f"$TIDEMILL_BINARY names {p.name!r}, which is no program: not found")
        return p.resolve()
    beside = sysconfig.get_path("scripts")
    found = shutil.which("tidemill") or shutil.which("tidemill", path=beside)
    if found is None:
        raise NotFoundError(
            "the program tidemill is not found (build it with `go build ./cmd/tidemill`, and put it into the PATH "
            "or name it in $TIDEMILL_BINARY)"
        )
    return Path(found).resolve()


class LocalNode:
    """A node that this process started. It ends with `stop`, at the end of a `with`, and at the end
    of the process, however that ends."""

    def __init__(self, data_dir: str | os.PathLike[str] | None = None, binary: str | os.PathLike[str] | None = None) -> None:
        program = Path(binary) if binary is not None else find_binary()
        self._own = data_dir is None
        self.data_dir = Path(tempfile.mkdtemp(prefix="tidemill-")) if data_dir is None else Path(data_dir)
        self.pid = os.getpid()
        self._client: Client | None = None
        self._lock = threading.Lock()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        log = self.data_dir / "node.log"
        info = self.data_dir / "node.json"
        info.unlink(missing_ok=True)  # of a node that was here before
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [
                    "/bin/sh", "-c", SCRIPT, "tidemill", str(program), "start", "--listen", "127.0.0.1:0",
                    "--gossip", "-", "--data-dir", str(self.data_dir), "--log-level", "warn",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=out,
                start_new_session=True,  # an interrupt at the terminal is Python's own
            )  # fmt: skip
        atexit.register(self.stop)
        try:
            self._await(info, log)
        except BaseException:
            self.stop()
            raise

    def _await(self, info: Path, log: Path) -> None:
        end = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise UnavailableError(f"the node has ended while it started: {last_line(log)}")
            if info.exists():
                try:
                    self.client.command("members")
                    return
                except UnavailableError:
                    pass
                except TidemillError as e:
                    if time.monotonic() > end:
                        raise UnavailableError(f"the node does not get ready: {e}") from e
            if time.monotonic() > end:
                raise UnavailableError(f"the node is not ready after {START_TIMEOUT:g} s: {last_line(log)}")
            time.sleep(0.05)

    @property
    def client(self) -> Client:
        """A client of the node; it is closed with it."""
        with self._lock:
            if self._client is None:
                self._client = connect(self.data_dir)
            return self._client

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the node: it drains, and its directory goes unless it was given."""
        if os.getpid() != self.pid:
            return  # a fork's copy of somebody else's node
        atexit.unregister(self.stop)
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        if self._own:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def __enter__(self) -> LocalNode:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<tidemill local node, {'running' if self.running else 'ended'}>"


def last_line(log: Path) -> str:
    """Returns the end of a log."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"


def local(data_dir: str | os.PathLike[str] | None = None, *, binary: str | os.PathLike[str] | None = None) -> LocalNode:
    """Starts a node with all roles on free ports, in a temporary directory unless one is given, and
    returns it once it is ready. `binary` names the program; see `find_binary`."""
    if data_dir is not None and Path(data_dir).exists() and not Path(data_dir).is_dir():
        raise InvalidError(f"{Path(data_dir).name!r} is no directory")
    return LocalNode(data_dir, binary)
