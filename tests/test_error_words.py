"""What the library tells its callers is true for all of them: Python, HTTP and the shell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "pillion"
AT_THE_EDGE = ("cli", "serve")
"""Parts that the shell or an operator calls: their options are there."""
FILES = sorted(
    path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in AT_THE_EDGE
)


def sentences(code: str) -> Iterator[str]:
    """Every text of a module that is no docstring; of f-strings the fixed parts."""
    tree = ast.parse(code)
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    pieces = {
        id(piece)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for piece in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            fixed = [one.value for one in node.values if isinstance(one, ast.Constant)]
            yield "".join(str(one) for one in fixed)
        elif isinstance(node, ast.Constant) and id(node) not in notes | pieces:
            yield str(node.value)


def options(code: str) -> list[str]:
    """Options of a shell that a sentence names as if everyone had them.

    A command of another program stands in backticks; a sentence may name an option beside the
    argument of the same meaning in Python.
    """
    found = list[str]()
    for text in sentences(code):
        plain = re.sub(r"`[^`]*`", "", text)
        if " " in text.strip() and not re.search(r"\w=(True|False)\b", plain):
            found += re.findall(r"(?<![\w-])--[a-z][\w-]*", plain)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_sentence_below_the_command_line_names_an_option_that_its_caller_may_not_have(
    path: Path,
) -> None:
    """`attach` said `--dtype float32`, a scored text `--max-tokens`: Python has neither."""
    assert options(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('raise E("use another dtype (--dtype float32).")', ["--dtype"]),
        ('raise E(f"got {x}; " "use " f"--template {y}.")', ["--template"]),
        ('"""Made by --fast."""\nx = "--quiet"', []),
        ('raise E("leave it out (--many no, in Python many=False).")', []),
        ('raise E("start one with `ray start --head`.")', []),
    ],
)
def test_an_option_in_a_sentence_is_found(code: str, found: list[str]) -> None:
    assert options(code) == found
