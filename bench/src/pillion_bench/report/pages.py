"""Reads result files, and writes the page and the plots that are made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pillion.core.files import replace_file
from pillion.errors import DataError
from pillion_bench.report.accuracy_page import with_sections
from pillion_bench.report.accuracy_plots import draw_accuracy
from pillion_bench.report.accuracy_result import AccuracyResult

NEW_PAGE = "# Results\n"


def read_result(path: Path) -> dict[str, Any]:
    """The content of a result file.

    Raises:
        DataError: there is none, or it is not one.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        missing = {"name", "settings", "results"} - content.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no result file ({error}); make it anew.") from error
    if missing:
        raise DataError(f"{path} is no result file (no {', '.join(missing)}); make it anew.")
    return content


def write_accuracy_page(files: Sequence[Path], page: Path) -> None:
    """Writes the tables of result files into a page, and a plot of each beside it.

    Args:
        files: of `pillion bench accuracy`.
        page: what stands between its marks is replaced; the rest stays.

    Raises:
        DataError: a file is no result file.
        StorageError: the page or a plot cannot be written.
    """
    results = [AccuracyResult(read_result(file)) for file in files]
    try:
        before = page.read_text(encoding="utf-8") if page.exists() else NEW_PAGE
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{page} cannot be read ({error}); give another page.") from error
    plots = page.parent / "plots"
    for result in results:
        draw_accuracy(result, plots / f"{result.content['name']}.png")
    replace_file(page, with_sections(before, results).encode())
