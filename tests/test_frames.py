"""From a verb to the arithmetic there are few frames: none that only passes arguments on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pillion
import pillion.train.learner
from pillion.cli import main
from pillion.probe.gate import Gate, GateFold
from pillion.probe.group import Group
from saved_models import save_tiny_model

PACKAGE = Path(pillion.__file__).parent
EXPRESSIONS = ("<listcomp>", "<dictcomp>", "<genexpr>", "<lambda>")
"""Some versions of Python have frames for these, others do not."""
WORDS = 1, 30, 240
"""Layers of few tokens are tapped together, of more one by one; of many they are folded so, too."""


def way_from(verb: str) -> list[str]:
    """The package's functions between a verb and the caller of this one."""
    names: list[str] = []
    frame = inspect.currentframe()
    frame = frame and frame.f_back and frame.f_back.f_back
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file == str(PACKAGE / "cli" / f"{verb}.py") and name == verb:
            return names[::-1]
        if file.startswith(str(PACKAGE)) and name not in EXPRESSIONS:
            names.append(f"{Path(file).relative_to(PACKAGE)}: {name}")
        frame = frame.f_back
    return []


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list[str]]]:
    """Runs a verb; gives the longest way to each function that was reached."""
    found: dict[str, list[str]] = {}
    running = ""

    def follow(owner: Any, name: str) -> None:
        made = getattr(owner, name)

        def followed(*args: Any, **more: Any) -> Any:
            found[name] = max(found.get(name, []), way_from(running), key=len)
            return made(*args, **more)

        monkeypatch.setattr(owner, name, followed)

    follow(pillion.train.learner, "loss")
    follow(Gate, "votes")
    follow(GateFold, "summarise")
    follow(GateFold, "finish")
    follow(Group, "own_values")
    follow(Group, "products")

    def run(verb: str, *words: str | Path) -> dict[str, list[str]]:
        nonlocal running
        found.clear()
        running = verb
        with pytest.raises(SystemExit) as stop:
            main([verb, *map(str, words)])
        assert stop.value.code == 0
        return dict(found)

    return run


def test_few_frames_stand_between_a_verb_and_the_arithmetic(
    ways: Callable[..., dict[str, list[str]]], tmp_path: Path
) -> None:
    """There were 11 for `train` and 13 for `predict`."""
    model = "--model", save_tiny_model(tmp_path / "model")
    rows, probe = tmp_path / "rows.csv", tmp_path / "probe"
    lines = [f"{'good' if i % 2 else 'poor'} day {i},{i % 2}" for i in range(40)]
    rows.write_text("\n".join(["text,label", *lines]))
    learning = "--data", rows, "--template", "raw", "--probe", "gate", "--epochs", 1
    found = ways("train", *learning, "--out", probe, *model)
    assert len(found["loss"]) == len(found["votes"]) == 8, found
    for count in WORDS:
        found = ways("predict", "--probe", probe, "--text", "day " * count, *model)
        tapped = "own_values" if count == 1 else "products"
        assert set(found) == {tapped, "summarise", "finish"}
        assert max(map(len, found.values())) == 8, found
