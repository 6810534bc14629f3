"""Where a node is: what it wrote to node.json in its data directory, or an address."""

from __future__ import annotations

import json
import os
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import CorruptError, InvalidError, NotFoundError

DEFAULT_RPC = 7947
DEFAULT_GRPC = 8500
DEFAULT_STREAM = 4222


@dataclass(frozen=True)
class Addresses:
    """Where commands, the stream and predictions are. "" where the node has none to offer."""

    rpc: str  # host:port
    stream: str  # nats://host:port
    serving: str  # host:port
    source: str  # where they come from, for texts


@dataclass(frozen=True)
class TLS:
    """PEM files. `ca` is whom to believe; `cert` and `key`, both or none, are the own certificate."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise InvalidError("tls_cert and tls_key belong together (give both, or none)")

    def __bool__(self) -> bool:
        return bool(self.ca or self.cert)

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Returns ca, key and cert, None where there is none."""
        return (
            read_pem("tls_ca", self.ca),
            read_pem("tls_key", self.key),
            read_pem("tls_cert", self.cert),
        )

    def context(self) -> ssl.SSLContext:
        """Returns the same for the stream's connection."""
        self.read()  # for its texts
        ctx = ssl.create_default_context(cafile=self.ca or None)
        ctx.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.cert:
            try:
                ctx.load_cert_chain(self.cert, self.key)
            except ssl.SSLError as e:
                raise InvalidError(f"the certificate and key of tls_cert and tls_key cannot be used: {e}") from e
        return ctx


def read_pem(what: str, name: str) -> bytes | None:
    if not name:
        return None
    try:
        data = Path(name).read_bytes()
    except OSError as e:
        raise InvalidError(f"the file of {what} cannot be read: {e.strerror}") from e
    if b"-----BEGIN " not in data:
        raise InvalidError(f"the file of {what} is not PEM")
    return data


def default_data_dir() -> Path:
    """Returns where a node keeps its data unless told otherwise, as the command does."""
    if d := os.environ.get("TIDEMILL_DATA_DIR"):
        return Path(d)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "tidemill"
    if d := os.environ.get("XDG_CONFIG_HOME"):
        return Path(d) / "tidemill"
    return Path.home() / ".config" / "tidemill"


def split(address: str, port: int, what: str) -> tuple[str, int]:
    """Splits HOST[:PORT]; an IPv6 host stands in brackets."""
    try:
        u = urlsplit("//" + address)
        host, given = u.hostname, u.port
    except ValueError:
        host, given = None, None
    if not host or u.path or u.query or u.username:
        raise InvalidError(f"{what} {address!r} is not an address (give HOST:PORT)")
    return host, given if given is not None else port


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(url: str | os.PathLike[str] | None, stream: str, serving: str) -> Addresses:
    """Finds the addresses. `url` is a node's data directory, `HOST:PORT` (its RPC port), with or
    without `tidemill://`, or None for the default data directory; an address leaves stream and
    serving at the default ports of that host unless they are given."""
    text = "" if url is None else os.fspath(url)
    if text.startswith("tidemill://"):
        found = at_host(text.removeprefix("tidemill://").rstrip("/"))
    elif text.startswith("file://"):
        found = in_directory(Path(unquote(urlsplit(text).path)))
    elif "://" in text:
        scheme = text.split("://", 1)[0]
        raise InvalidError(f"{scheme}:// is no way to a node (give a data directory, HOST:PORT or tidemill://HOST:PORT)")
    elif isinstance(url, str) and looks_like_host(text):
        found = at_host(text)
    elif text:
        found = in_directory(Path(text))
    else:
        d = default_data_dir()
        found = in_directory(d) if (d / "node.json").exists() else at_host("127.0.0.1")
    if stream and "://" not in stream:
        stream = "nats://" + stream
    if serving:
        serving = join(*split(serving, DEFAULT_GRPC, "serving"))
    return Addresses(found.rpc, stream or found.stream, serving or found.serving, found.source)


def looks_like_host(text: str) -> bool:
    """Tells HOST:PORT from a directory: a directory exists, or has a separator in its name."""
    if "/" in text or os.sep in text or Path(text).exists():
        return False
    host, colon, port = text.rpartition(":")
    return bool(colon and host and port.isdigit())


def at_host(address: str) -> Addresses:
    host, port = split(address, DEFAULT_RPC, "url")
    return Addresses(join(host, port), "nats://" + join(host, DEFAULT_STREAM), join(host, DEFAULT_GRPC), f"the address {address}")


def in_directory(d: Path) -> Addresses:
    try:
        info = json.loads((d / "node.json").read_text())
        rpc = info["rpc"]
    except (FileNotFoundError, NotADirectoryError) as e:
        raise NotFoundError(
            f"no node has run in data directory {d.name!r} (start one with `tidemill start`, or give its address)"
        ) from e
    except (ValueError, KeyError, TypeError) as e:
        raise CorruptError(f"node.json of data directory {d.name!r} cannot be read") from e
    return Addresses(rpc, info.get("stream", ""), info.get("grpc", ""), f"data directory {d.name!r}")
