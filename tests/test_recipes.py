"""The recipes run as they are written, on models that need no weights."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[1] / "recipes"


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(RECIPES / f"{name}.py"))


def test_every_recipe_is_tested_here_and_says_what_it_is_for() -> None:
    names = {path.stem for path in RECIPES.glob("*.py")}
    assert names == {
        "attach_to_your_model",
        "many_probes_one_pass",
        "read_verdicts",
        "serve_on_ray",
    }
    for name in names:
        # Not by running it: some need what is not installed everywhere.
        text = ast.get_docstring(ast.parse((RECIPES / f"{name}.py").read_text("utf-8")))
        assert f"python recipes/{name}.py" in (text or "")


def test_a_probe_is_attached_to_a_model_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load("attach_to_your_model")
    found = recipe["main"]([])
    assert found["prompt"].probs.keys() == {"negative", "neutral", "positive"}
    assert found["prompt and answer"].probs != found["prompt"].probs
    assert capsys.readouterr().out.startswith(recipe["PROMPT"])


def test_many_probes_are_read_in_one_pass(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load("many_probes_one_pass")
    verdicts = recipe["main"](["fake"])
    assert [list(row) for row in verdicts] == [["safety", "intent", "sentiment"]] * 3
    shown = capsys.readouterr().out
    assert all(text in shown for text in recipe["TEXTS"])
