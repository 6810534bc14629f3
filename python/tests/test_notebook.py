from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import with_engine

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.mark.parametrize("name", sorted(p.name for p in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_runs_as_a_script(name: str, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the cells in order, and shows the last expression of each as a notebook would."""
    if name == "keras.ipynb":
        pytest.importorskip("tensorflow", reason="the notebook on Keras needs TensorFlow: pip install './python[keras]'")
        with_engine(binary)
    else:
        pytest.importorskip("pandas")
        pytest.importorskip("sklearn")
    monkeypatch.setenv("TIDEMILL_BINARY", str(binary))
    monkeypatch.chdir(NOTEBOOKS)
    book = json.loads((NOTEBOOKS / name).read_text())
    assert all(c.get("outputs", []) == [] for c in book["cells"]), "clear the outputs before committing"
    space: dict[str, Any] = {}
    shown = 0
    for i, cell in enumerate(c for c in book["cells"] if c["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]), f"cell {i}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {i}", "exec"), space)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {i}", "eval"), space)
            if hasattr(value, "_repr_html_"):
                shown += bool(value._repr_html_())
    assert shown >= (2 if name == "keras.ipynb" else 4)
