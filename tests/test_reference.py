"""The reference is made of docstrings: every public name has one, with its arguments and errors."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODULES: tuple[str, ...] = runpy.run_path(str(ROOT / "docs" / "reference.py"))["MODULES"]
"""What `make docs` documents."""
ELSEWHERE = re.compile(r"\b[Ss]ee `|Arguments [a-z\s]+\sof\s+`|^`\w+` of ")
"""A docstring that leaves arguments and errors to another one's."""
MANY = 3
"""Arguments from which a docstring has to name them."""

each_module = pytest.mark.parametrize("name", MODULES)


def public(name: str) -> Iterator[tuple[str, Any]]:
    """Public classes, functions and methods of a module, with their names."""
    module = importlib.import_module(name)
    own = getattr(module, "__all__", None)
    for each in own if own is not None else vars(module):
        thing = getattr(module, each)
        mine = str(getattr(thing, "__module__", "")).startswith("pillion")
        if each.startswith("_") or not mine or not (inspect.isclass(thing) or callable(thing)):
            continue
        if own is None and thing.__module__ != name:
            continue
        yield f"{name}.{each}", thing
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                if not key.startswith("_") and isinstance(
                    member, (staticmethod, classmethod, property)
                ) | inspect.isfunction(member):
                    yield f"{name}.{each}.{key}", _function(member)


def _function(member: Any) -> Any:
    return member.fget if isinstance(member, property) else getattr(member, "__func__", member)


def faults(where: str, thing: Any) -> list[str]:
    """What a docstring lacks."""
    text = inspect.getdoc(thing)
    if not text:
        return [f"{where} has no docstring"]
    if inspect.isclass(thing) or not inspect.isfunction(thing):
        return []
    found = []
    names = [one for one in inspect.signature(thing).parameters if one not in ("self", "cls")]
    elsewhere = ELSEWHERE.search(text) is not None
    if len(names) >= MANY and "Args:" not in text and not elsewhere:
        found.append(f"{where} does not say what {', '.join(names)} are")
    if "Args:" in text:
        found += [f"{where}: {one} is not under Args" for one in names if f"{one}:" not in text]
    missing = raised(thing) - set(re.findall(r"\w+Error|Interrupted", text))
    found += [f"{where} does not say that it raises {one}" for one in missing if not elsewhere]
    return found


def raised(function: Any) -> set[str]:
    """Errors of pillion that a function raises itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return set()
    names = set()
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            names.add(call.func.id)
    import pillion.errors

    return {one for one in names if one.endswith("Error") and hasattr(pillion.errors, one)}


@each_module
def test_every_public_name_says_what_it_is_takes_and_raises(name: str) -> None:
    assert [fault for where, thing in public(name) for fault in faults(where, thing)] == []


def test_the_reference_is_built_with_a_page_a_part(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc is not installed (make docs does)")
    runpy.run_path(str(ROOT / "docs" / "reference.py"))["build"](tmp_path)
    pages = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")}
    assert {f"{name.replace('.', '/')}.html" for name in MODULES} <= pages
    assert "LanguageModel.generate" in (tmp_path / "pillion.html").read_text("utf-8")


def test_what_is_imported_from_pillion_itself_is_all_there() -> None:
    import pillion

    assert {where.split(".")[1] for where, _ in public("pillion")} == {*pillion.__all__}


def test_a_docstring_that_lacks_something_is_found() -> None:
    from pillion.errors import DataError

    def silent(one: int) -> None:
        raise DataError("x")

    def told(one: int, two: int, three: int) -> None:
        """Does something.

        Args:
            one: the first.
            two: the second.
        """

    assert faults("silent", silent) == ["silent has no docstring"]
    assert faults("told", told) == ["told: three is not under Args"]
    silent.__doc__ = "Fails."
    assert faults("silent", silent) == ["silent does not say that it raises DataError"]
