from __future__ import annotations

import random

import pytest

import tidemill
from tidemill._stream.frame import Frame, parse, parse_key
from tidemill._stream.schema import quote


def frame(rng: random.Random) -> Frame:
    key = "" if rng.random() < 0.3 else "".join(rng.choices("abc:/é", k=rng.randrange(20))) + f"/{rng.randrange(10**6)}"
    return Frame(
        rng.randrange(1 << 50), rng.randrange(1, 1 << 32), rng.getrandbits(64), rng.getrandbits(64), key, rng.randbytes(80)
    )


@pytest.mark.parametrize("seed", range(50))
def test_a_frame_is_read_as_it_was_written(seed: int) -> None:
    f = frame(random.Random(seed))
    assert parse(f.seal()) == f


@pytest.mark.parametrize("seed", range(50))
def test_a_damaged_frame_is_refused(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(frame(rng).seal())
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data))]
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    with pytest.raises(tidemill.CorruptError):
        parse(bytes(data))


@pytest.mark.parametrize("key", ["", "a", "a/", "/x", "a/01", "a/-1", "a/1 ", "a/１"])
def test_keys_end_in_a_number(key: str) -> None:
    with pytest.raises(tidemill.CorruptError):
        parse_key(key)


def test_names_are_quoted_as_in_fingerprints() -> None:
    assert quote('a"\\\n\x00\x7fé\u00a0\u2028😀') == r'"a\"\\\n\x00\x7fé\u00a0\u2028😀"'
