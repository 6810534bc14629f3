from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import clicks, spec

import tidemill


@pytest.fixture(scope="module")
def secured(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A node with certificates: its data directory, and that of the certificates."""
    home = tmp_path_factory.mktemp("secured")
    certs, data = home / "certs", home / "data"
    subprocess.run([str(binary), "certs", "--dir", str(certs)], check=True, capture_output=True, timeout=60)
    (certs / "gossip.key").write_text("00" * 32)
    args = ["start", "--listen", "127.0.0.1:0", "--data-dir", str(data), "--gossip-key", str(certs / "gossip.key")]
    for name, file in (("cert", "node.pem"), ("key", "node-key.pem"), ("ca", "ca.pem")):
        args += [f"--tls-{name}", str(certs / file)]
    with (home / "log").open("wb") as log:
        p = subprocess.Popen([str(binary), *args], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not (data / "node.json").exists():
            assert p.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield data, certs
    finally:
        p.terminate()
        p.wait(30)


def files(certs: Path, name: str) -> dict[str, Any]:
    return {"tls_ca": certs / "ca.pem", "tls_cert": certs / f"{name}.pem", "tls_key": certs / f"{name}-key.pem"}


def test_everything_works_with_certificates(secured: tuple[Path, Path]) -> None:
    data, certs = secured
    with tidemill.connect(data, **files(certs, "admin")) as c:
        assert c.produce("t", clicks(800)).rows == 800
        assert c.produce("t", clicks(800)).rows == 0
        job = c.submit(spec("m", "t"), until_end=True)
        job.wait(timeout=120)
        job.wait(champion=1, timeout=60)
        assert len(c.predict("m", clicks(10))) == 10
    with tidemill.connect(data, **files(certs, "client")) as c:
        assert len(c.predict("m", clicks(10))) == 10
        with pytest.raises(tidemill.DeniedError, match="admin.*the caller's is for client"):
            c.jobs()
        with pytest.raises((tidemill.DeniedError, tidemill.UnavailableError)):
            c.produce("t", clicks(1))


def test_without_certificates_it_says_what_is_missing(secured: tuple[Path, Path], binary: Path, tmp_path: Path) -> None:
    data, _ = secured
    with tidemill.connect(data) as c:
        with pytest.raises(tidemill.UnavailableError, match="check tls_ca, tls_cert and tls_key"):
            c.jobs()
        with pytest.raises(tidemill.TidemillError):
            c.produce("t", clicks(1))
    subprocess.run([str(binary), "certs", "--dir", str(tmp_path)], check=True, capture_output=True, timeout=60)
    with tidemill.connect(data, **files(tmp_path, "admin")) as c:  # another authority's
        with pytest.raises(tidemill.UnavailableError, match="check tls_ca, tls_cert and tls_key"):
            c.jobs()
        with pytest.raises(tidemill.UnavailableError, match="check tls_ca, tls_cert and tls_key"):
            c.produce("t", clicks(1))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(tidemill.InvalidError, match="belong together"):
        tidemill.connect("h:1", tls_cert="a.pem")
    with pytest.raises(tidemill.InvalidError, match="tls_ca cannot be read: No such file"):
        tidemill.connect("h:1", tls_ca=tmp_path / "none.pem")
    (tmp_path / "x.pem").write_text("x")
    with pytest.raises(tidemill.InvalidError, match="tls_ca is not PEM"):
        tidemill.connect("h:1", tls_ca=tmp_path / "x.pem")
