from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY


def test_the_example_of_the_readme(binary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "python" / "README.md").read_text(), re.S)
    assert code is not None
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("TIDEMILL_BINARY", str(binary))
    space: dict[str, Any] = {"df": pandas.read_csv(REPOSITORY / "examples" / "clicks" / "clicks.csv", parse_dates=["ts"])}
    exec(compile(code[1], "README.md", "exec"), space)
    out = capsys.readouterr().out
    assert "clicks finished" in out
    assert "version" in out
