"""Pictures of why a verdict is what it is: a heat map of layers and tokens, as PNG or as a page.

The page is one file that fetches nothing. Both take an explanation as `pillion explain --json`
prints it, and show the words of the turns; the template's tokens only where they are asked
for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from pillion.report.figure import FIRST, QUIET, SECOND, new_figure, save

MAX_TOKENS = 120
"""Columns of a picture; the page shows all tokens."""


def explanation_page(explanation: Mapping[str, Any], template_tokens: bool = False) -> str:
    """The page: text and heat map in colours, one label at a time.

    Args:
        explanation: of `Explanation.as_json`.
        template_tokens: whether the template's tokens are shown.
    """
    shown = {**explanation, "parts": _parts(explanation, template_tokens)}
    page = files("pillion.report").joinpath("explanation.html").read_text(encoding="utf-8")
    # Inside a script element only "</" and "<!--" could end it: no "<" is left.
    data = json.dumps(shown, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return page.replace("__DATA__", data)


def _parts(explanation: Mapping[str, Any], template_tokens: bool) -> list[dict[str, Any]]:
    """Role and places of the tokens, a turn each; none where all tokens are shown."""
    segments = explanation.get("segments")
    if template_tokens or not segments:
        return [{"who": "", "places": list(range(len(explanation["tokens"])))}]
    return [
        {
            "who": s["role"] if s["kind"] == "content" else s["kind"],
            "places": list(range(s["begin"], s["end"])),
        }
        for s in segments
    ]


def plot_explanation(
    explanation: Mapping[str, Any], label: str, path: Path, template_tokens: bool = False
) -> None:
    """Draws what each layer and token added for one label as a PNG file.

    Of a long text the `MAX_TOKENS` tokens around the one that added most are shown.

    Args:
        explanation: of `Explanation.as_json`.
        label: one of its `labels`.
        path: of the PNG file.
        template_tokens: whether the template's tokens are shown.

    Raises:
        StorageError: the file cannot be written.
    """
    values = np.array(explanation["contributions"][label])
    if explanation["softmax"]:
        values = values - np.mean(list(explanation["contributions"].values()), axis=0)
    pairs = zip(explanation["tokens"], explanation["token_ids"], strict=True)
    names = [token or f"⟨{token_id}⟩" for token, token_id in pairs]
    own = [place for part in _parts(explanation, template_tokens) for place in part["places"]]
    values, names = values[:, own], [names[place] for place in own]
    total = len(names)
    values, names, first = _cut(values, names)
    figure = new_figure(min(16.0, 3 + 0.16 * len(names)), 2.5 + 0.1 * len(values))
    axes = figure.subplots()
    most = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, _colours(), aspect="auto", origin="lower", vmin=-most, vmax=most)
    axes.set_yticks(range(0, len(values), max(1, len(values) // 10)))
    axes.set_yticklabels([explanation["layers"][i] for i in axes.get_yticks()])
    axes.set_xticks(range(len(names)))
    axes.set_xticklabels([_plain(name) for name in names], rotation=90, fontsize=7)
    axes.set_ylabel("layer")
    if first or len(names) < total:
        axes.set_xlabel(f"tokens {first} to {first + len(names) - 1} of {total}")
    figure.colorbar(image, label=f"added for {label!r}")
    how = "exact" if explanation["exact"] else explanation["method"] + ", approximate"
    axes.set_title(f"{explanation['probe']}: {explanation['label']} ({how})", fontsize=10)
    save(figure, path)


def plot_profiles(profiles: Mapping[str, Any], path: Path) -> None:
    """Draws which layers speak for a class, in items that came out right and in those that did not.

    Args:
        profiles: as `pillion explain --data ... --json` prints them.
        path: of the PNG file.

    Raises:
        StorageError: the file cannot be written.
    """
    names = list(profiles["classes"])[:12]
    rows = -(-len(names) // 3)
    figure = new_figure(4.0 * min(3, len(names)), 2.6 * rows)
    grid = figure.subplots(rows, min(3, len(names)), squeeze=False, sharex=True)
    for axes, name in zip(grid.flat, names, strict=False):
        one = profiles["classes"][name]
        for kind, line, style, colour in _LINES:
            if one[kind][line] is not None:
                label = f"{kind} ({one[kind]['rows']}), {line.replace('_', ' ')}"
                axes.plot(profiles["layers"], one[kind][line], style, color=colour, label=label)
        axes.axhline(0, color=QUIET, linewidth=0.5)
        axes.set_title(name, fontsize=10)
        axes.legend(fontsize=6, frameon=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("layer (0: embeddings)", fontsize=9)
    figure.supylabel("added to the logit, mean over items", fontsize=9)
    save(figure, path)


_LINES = (
    ("correct", "to_true", "-", FIRST),
    ("wrong", "to_true", "--", SECOND),
    ("wrong", "to_decided", ":", SECOND),
)


def _colours() -> Any:
    """The page's: blue speaks for the label, orange against it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("for-against", [SECOND, "#ffffff", FIRST])


def _cut(values: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str], int]:
    """At most `MAX_TOKENS` columns, and the first one's place."""
    if len(names) <= MAX_TOKENS:
        return values, names, 0
    middle = int(np.abs(values.sum(0)).argmax())
    first = min(max(0, middle - MAX_TOKENS // 2), len(names) - MAX_TOKENS)
    stop = first + MAX_TOKENS
    return values[:, first:stop], names[first:stop], first


def _plain(token: str) -> str:
    """For an axis: line breaks shown, dollar signs no formulas, long ones cut."""
    shown = token.replace("\n", "↵").replace("\t", "⇥").replace("$", r"\$")
    return shown if len(shown) <= 16 else f"{shown[:15]}…"
