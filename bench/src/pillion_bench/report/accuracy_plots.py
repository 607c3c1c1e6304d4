"""Plots of a data set's result file: how good each method is, and at what price.

Promises a file that is whole or not there. Matplotlib is imported here and only when asked.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pillion.core.files import replace_file
from pillion_bench.report.accuracy_result import TITLES, AccuracyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"probe": "#2166ac", "baseline": "#7f7f7f", "mark": "#b2182b", "control": "#d9d9d9"}
LEAST_MS = 0.1
"""What adds less stands at the left end of a logarithmic axis: it is lost in the noise."""


def draw_accuracy(result: AccuracyResult, path: Path) -> None:
    """Draws the leading metrics as dots with their seeds, and the first against added time.

    Args:
        result: of one data set.
        path: of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = result.methods()[::-1]
    priced = _priced(result)
    num_panels = len(result.leading) + bool(priced)
    size = (3.6 * num_panels + 2.2, 0.28 * len(methods) + 1.8)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(1, num_panels, squeeze=False)[0]
    for place, metric in enumerate(result.leading):
        _draw_metric(axes[place], result, methods, metric, names=place == 0)
    if priced:
        _draw_price(axes[-1], result, priced)
    _draw_legend(figure, result, methods)
    figure.suptitle(result.data_set, fontsize=11, fontweight="bold")
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    replace_file(path, content.getvalue())


def _draw_metric(
    ax: Axes, result: AccuracyResult, methods: Sequence[str], metric: str, names: bool
) -> None:
    """A line a method: every seed as a ring, their mean as a dot."""
    for place, method in enumerate(methods):
        found = result.entry(method, f"{result.split}_{metric}")
        if found is None or found["value"] is None:
            where = ax.get_yaxis_transform()
            ax.text(0.02, place, "undefined", fontsize=7, va="center", transform=where)
            continue
        colour = COLOURS[result.role(method)]
        seeds = [value for value in found["per_seed"] if value is not None]
        ax.plot(seeds, [place] * len(seeds), "o", mfc="none", mec=colour, ms=4, alpha=0.7)
        ax.plot(found["value"], place, "o", color=colour, mec="black", mew=0.4, ms=6)
    ax.set_yticks(range(len(methods)), methods if names else [""] * len(methods), fontsize=8)
    ax.set_ylim(-0.6, len(methods) - 0.4)
    ax.set_xlabel(f"{TITLES[metric]} on {result.split} rows", fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="both", alpha=0.25)


def _priced(result: AccuracyResult) -> dict[str, tuple[float, float]]:
    """Added milliseconds and first leading metric of the methods that have both; no controls."""
    found: dict[str, tuple[float, float]] = {}
    for method in result.methods():
        value = result.value(method, f"{result.split}_{result.leading[0]}")
        added = result.value(method, "added_ms")
        if value is not None and added is not None and result.role(method) != "control":
            found[method] = (max(added, LEAST_MS), value)
    return found


def _draw_price(ax: Axes, result: AccuracyResult, priced: dict[str, tuple[float, float]]) -> None:
    """The first leading metric against the milliseconds that a method adds.

    Names stand in a column at the right, as far apart as they need, with a line to their dots.
    """
    names = sorted(priced, key=lambda name: priced[name][1])
    values = [priced[name][1] for name in names]
    room = max(max(values) - min(values), 1e-3)
    ax.set_ylim(min(values) - 0.08 * room, max(values) + 0.08 * room)
    ax.set_xscale("log")
    ax.set_xlim(LEAST_MS / 1.5, 3 * max(added for added, _ in priced.values()))
    heights = np.linspace(0.03, 0.97, len(names)) if len(names) > 1 else [0.5]
    for name, height in zip(names, heights, strict=True):
        colour = COLOURS[result.role(name)]
        ax.plot(*priced[name], "o", color=colour, mec="black", mew=0.4, ms=6)
        ax.annotate(
            name,
            priced[name],
            xytext=(1.03, height),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            color="black" if colour == COLOURS["baseline"] else colour,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "lw": 0.6},
        )
    ax.set_xlabel("milliseconds added a text", fontsize=8)
    ax.set_ylabel(TITLES[result.leading[0]], fontsize=8)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25)


def _draw_legend(figure: Figure, result: AccuracyResult, methods: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    roles = [role for role in COLOURS if any(result.role(method) == role for method in methods)]
    marks = [Line2D([], [], marker="o", ls="", color=COLOURS[role], label=role) for role in roles]
    rings = Line2D([], [], marker="o", ls="", mfc="none", color="black", label="one seed", ms=4)
    handles = [*marks, rings]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
