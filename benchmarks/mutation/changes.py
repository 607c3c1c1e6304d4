"""The changes that cosmic-ray makes in a source file, and which of them no test could notice.

Left out is what cannot change how the program behaves, told from the syntax tree without what is
never run: annotations of parameters, results, variables and fields (`X | None`; not those of
pydantic's classes, which are read), and the decorators `abstractmethod`, `override` and `final`,
which only refuse code that could not run. Left out too are changes that are no Python, or that
Python itself warns of (`is` with a literal): every test would kill them, for nothing.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TYPE_ONLY = {"abstractmethod", "override", "final"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Change:
    """One change in one place.

    Attributes:
        path: of the file, below `src/pillion`.
        operator: cosmic-ray's name of the kind of change.
        occurrence: which of the places where it could be made in the file.
        line: where it is, from 1.
    """

    path: str
    operator: str
    occurrence: int
    line: int


def changes_of(package: Path, source: str) -> list[Change]:
    """All changes of a file, or of the files of a folder.

    Args:
        package: `src/pillion`.
        source: file or folder below it.
    """
    place = package / source
    files = sorted(place.glob("**/*.py")) if place.is_dir() else [place]
    return [change for file in files for change in _changes(package, file)]


def _changes(package: Path, file: Path) -> Iterator[Change]:
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    nodes, path = list(ast_nodes(get_ast_from_path(file))), str(file.relative_to(package))
    for name in sorted(operator_names()):
        if get_operator(name).arguments():  # which names of the code it would have to be told
            continue
        operator = get_operator(name)()
        starts = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, (line, _) in enumerate(starts):
            yield Change(path, name, occurrence, line)


def mutated(source: str, change: Change) -> str:
    """The text of a file with the change in it."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    found = mutate_code(source, get_operator(change.operator)(), change.occurrence)
    assert found is not None, f"{change} is of another text"
    return found


def told(before: str, after: str) -> str:
    """The lines that differ, as a difference shows them."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if line[:2] not in {"--", "++", "@@"})


def has_effect(before: str, after: str) -> bool:
    """Whether a change could be noticed, and is not noticed by Python alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compile(after, "changed", "exec")
    except (SyntaxError, SyntaxWarning):
        return False
    return _run_part(before) != _run_part(after)


@lru_cache(maxsize=64)
def _run_part(source: str) -> str:
    return ast.dump(_WithoutTypes().visit(ast.parse(source)))


class _WithoutTypes(ast.NodeTransformer):
    """Takes out of a syntax tree what is never run."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._plain(node)
        if node.bases and not any(_name(base) == "NamedTuple" for base in node.bases):
            # Its bases may read what is annotated, as those of pydantic do.
            fields = [one for one in node.body if not isinstance(one, ast.AnnAssign)]
            node.body = [one for one in node.body if isinstance(one, ast.AnnAssign)]
            node.body += [self.visit(one) for one in fields]
            return node
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def _function(self, node: Function) -> ast.AST:
        node.returns = None
        self._plain(node)
        return self.generic_visit(node)

    @staticmethod
    def _plain(node: Function | ast.ClassDef) -> None:
        node.decorator_list = [one for one in node.decorator_list if _name(one) not in TYPE_ONLY]


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def function_at(source: str, line: int) -> str | None:
    """The qualified name of the innermost function whose body holds a line; None outside of all."""
    found: str | None = None
    for name, begin, end in _bodies(ast.parse(source), ""):
        if begin <= line <= end:
            found = name  # inner ones come after outer ones
    return found


def _bodies(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            name = prefix + child.name
            yield name, child.body[0].lineno, child.end_lineno or 0
            yield from _bodies(child, f"{name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from _bodies(child, f"{prefix}{child.name}.")
        else:
            yield from _bodies(child, prefix)
