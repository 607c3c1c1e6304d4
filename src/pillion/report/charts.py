"""Charts as SVG text for a page: scalable, without scripts, in the page's own colours.

Promises the same text for the same values. Label names never enter a chart: a font may lack them,
so they stand in the page. Does not know result files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[Sequence[float]]

# Colours that stand for those of the page: each is replaced by a variable of its style sheet, which
# is another one in the dark.
INK, QUIET = "#0a0b01", "#0a0b02"
SERIES = ("#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06", "#0a0b07", "#0a0b08")
NAMES = {INK: "ink", QUIET: "quiet"} | {c: f"series-{i}" for i, c in enumerate(SERIES, 1)}

WIDTH, HEIGHT = 3.4, 2.9
"""Inches; the page stretches a chart to its column."""


@dataclass(frozen=True)
class Line:
    """Points to be joined.

    Attributes:
        points: x and y of each.
        series: which of the page's series colours, from 0; None for the quiet one.
        dots: whether each point is marked.
        band: low and high of y at each point, if it is uncertain.
    """

    points: Points
    series: int | None = 0
    dots: bool = False
    band: Points | None = None


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    diagonal: bool = False,
    unit: bool = True,
    log_x: bool = False,
    marks: Sequence[float] = (),
    width: float = WIDTH,
) -> str:
    """A chart of lines.

    Args:
        lines: at least one.
        x_label: under the chart.
        y_label: at its side.
        diagonal: whether x = y is drawn.
        unit: whether both axes run from 0 to 1.
        log_x: whether x is logarithmic.
        marks: places on x that are marked by a vertical line.
        width: inches.
    """
    axes = _axes(x_label, y_label, width)
    for mark in marks:
        axes.axvline(mark, color=QUIET, lw=0.8, ls=(0, (1, 2)))
    if diagonal:
        axes.plot([0, 1], [0, 1], color=QUIET, lw=0.8, ls=(0, (4, 3)))
    for line in lines:
        _draw(axes, line)
    if unit:
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if log_x:
        _double(axes, sorted({point[0] for line in lines for point in line.points}))
    return _svg(axes)


def bar_chart(groups: Sequence[Points], x_label: str, y_label: str) -> str:
    """Bars over the interval from 0 to 1, one colour a group; each point is (middle, height)."""
    axes = _axes(x_label, y_label, WIDTH)
    count = max((len(group) for group in groups), default=1)
    each = 1 / count / max(len(groups), 1) * 0.9
    for place, group in enumerate(groups):
        shift = (place - (len(groups) - 1) / 2) * each
        x, y = [p[0] + shift for p in group], [p[1] for p in group]
        axes.bar(x, y, width=each, color=SERIES[place % len(SERIES)])
    axes.set(xlim=(-0.02, 1.02))
    return _svg(axes)


def _double(axes: Any, ticks: Sequence[float]) -> None:
    """A logarithmic x axis with its ticks at the points, written out where there is room."""
    axes.set_xscale("log", base=2)
    crowded = [later < 1.5 * tick for tick, later in pairwise(ticks)] + [False]
    named = zip(ticks, crowded, strict=True)
    axes.set_xticks(ticks, ["" if close else f"{tick:,.0f}" for tick, close in named])
    axes.minorticks_off()


def _draw(axes: Axes, line: Line) -> None:
    colour = QUIET if line.series is None else SERIES[line.series % len(SERIES)]
    x, y = [p[0] for p in line.points], [p[1] for p in line.points]
    if line.band is not None:
        low, high = [b[0] for b in line.band], [b[1] for b in line.band]
        if line.dots:
            axes.vlines(x, low, high, color=colour, lw=1.0)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    style: dict[str, Any] = {"marker": "o", "ms": 3.5} if line.dots else {}
    axes.plot(x, y, color=colour, lw=0.9 if line.series is None else 1.6, **style)


def _axes(x_label: str, y_label: str, width: float) -> Axes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, HEIGHT), layout="constrained")
    axes: Any = figure.subplots()
    axes.set_xlabel(x_label, color=INK, fontsize=9)
    axes.set_ylabel(y_label, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8, width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=QUIET, linewidth=0.6)
    axes.grid(visible=True, color=QUIET, lw=0.3, alpha=0.5)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    return axes


def _svg(axes: Axes) -> str:
    import matplotlib as mpl

    text = io.StringIO()
    # Text stays text, and names of parts are the same in every run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pillion"}):
        figure: Any = axes.figure
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    # Style sheets and names of parts would meet those of the page and of the other charts.
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'font-family: [^;"]*', "font-family: inherit", svg)
    for colour, name in NAMES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
