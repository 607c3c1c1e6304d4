"""One HTML file of any number of result files: no network, no scripts, light and dark, any width.

Promises a page for every result file, a plain table where nothing better is known, or a sentence
why there is none. Texts and names are data: nothing in them is markup.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pillion.core.files import replace_file
from pillion.errors import DataError
from pillion.report.evaluation_section import evaluation_section
from pillion.report.layers_section import layers_section
from pillion.report.numbers import compact, number, percent, spread
from pillion.report.real_section import real_section
from pillion.report.tables import table_section

if TYPE_CHECKING:
    from jinja2 import Environment

Content = Mapping[str, Any]

SECTIONS: dict[str, Callable[[Content], dict[str, Any]]] = {
    "evaluation": evaluation_section,
    "layers": layers_section,
    "real": real_section,
}
"""What is known of a result file's `kind`; the values of the template `KIND.html.j2`."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        template: name of the file that draws it.
        values: what the template shows.
    """

    title: str
    template: str
    values: Mapping[str, Any]


def read_content(path: Path) -> dict[str, Any]:
    """The content of a result file.

    Raises:
        DataError: there is none, or it is not one.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no result file ({error}); give one, in JSON.") from error
    if not isinstance(content, dict) or not {"name", "results"} <= content.keys():
        raise DataError(
            f"{path} is no result file (an object with `name` and `results`); give one that "
            "evaluate, bench, layers or a benchmark has written."
        )
    return content


def section(content: Content) -> Section:
    """The part of the page that a result file makes.

    Raises:
        DataError: a file of a known kind that lacks something.
    """
    kind = str(content.get("kind", ""))
    if kind not in SECTIONS:
        return Section(str(content["name"]), "table.html.j2", table_section(content))
    try:
        values = SECTIONS[kind](content)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(
            f"Result file {content['name']!r} of kind {kind!r} is not complete ({error!r}); make "
            "it anew."
        ) from error
    return Section(values.pop("title"), f"{kind}.html.j2", values)


def render(contents: Sequence[Content], title: str) -> str:
    """The page.

    Args:
        contents: of result files, in the order of the page.
        title: of the page.

    Raises:
        DataError: nothing to show, or a file of a known kind that lacks something.
    """
    if not contents:
        raise DataError("Got no result file to report; give one, or a probe and data.")
    sections = [section(content) for content in contents]
    return _templates().get_template("page.html.j2").render(title=title, sections=sections)


def write_report(contents: Sequence[Content], path: Path, title: str) -> int:
    """Writes the page, whole or not at all; returns its size in bytes.

    Args:
        contents: as `render`.
        path: of the page.
        title: as `render`.

    Raises:
        DataError: as `render`.
        StorageError: the file cannot be written.
    """
    page = render(contents, title).encode(errors="replace")
    replace_file(path, page)
    return len(page)


def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pillion.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "spread": spread,
        "percent": percent,
        "compact": compact,
    }
    return environment
