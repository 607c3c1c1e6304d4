"""Lines of JSON, one a row: verdicts, or why there are none; and what can stand in one."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from pillion.core.verdict import NOTHING, Verdict, verdicts_json


def as_line(verdicts: Mapping[str, Verdict], multilabel: Collection[str]) -> dict[str, Any]:
    """A row's line: the first probe's verdict, and all of them by name if there are several.

    Args:
        verdicts: probe name -> verdict.
        multilabel: names of the probes whose label is a list.
    """
    named = verdicts_json(verdicts, multilabel)
    first = next(iter(named.values()))
    return first if len(named) == 1 else {**first, "verdicts": named}


def failed_line(reason: str) -> dict[str, Any]:
    """The line of a row that could not be used: it keeps the others in step with their rows."""
    return {**NOTHING, "error": reason}


def json_line(value: Any) -> str:
    """JSON in one line, also for readers to whom U+2028 and its like end a line.

    Args:
        value: of JSON's types; NaN is none of them.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.translate({ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})


def is_json(value: Any, finite: bool = True) -> bool:
    """Whether a value can be sent as JSON.

    NaN and infinity cannot, nor half of a surrogate pair, nor what lies too deep.

    Args:
        value: as `json.loads` gives it, which lets all of these pass.
        finite: whether numbers are looked at, too.
    """
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=not finite).encode()
    except (ValueError, RecursionError):
        return False
    return True
