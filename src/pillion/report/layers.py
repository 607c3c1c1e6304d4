"""The picture of a study of layers: score and silhouette coefficient over the layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pillion.report.figure import FIRST, INK, QUIET, SECOND, new_figure, save


def plot_layers(study: Mapping[str, Any], path: Path) -> None:
    """Draws a study as a PNG file: what Gwak & Jung (KNIT 2025) show, with the choices marked.

    Args:
        study: the content of its result file, as `pillion.select.result` makes it.
        path: of the PNG file.

    Raises:
        StorageError: the file cannot be written.
    """
    figure = new_figure(8.0, 4.5)
    axes = figure.subplots()
    rows = study["results"]
    layers = [row["layer"] for row in rows]
    axes.plot(layers, _numbers(rows, "score"), color=FIRST, marker="o", markersize=4)
    axes.set_xlabel("layer (0: embeddings)")
    axes.set_ylabel(
        f"{study['settings']['score']} of a ridge classifier, left-out rows", color=FIRST
    )
    axes.set_xticks(layers[:: max(1, len(layers) // 16)])
    other = axes.twinx()
    values = _numbers(rows, "silhouette")
    other.plot(layers, values, color=SECOND, marker="s", markersize=3, linestyle="--")
    other.set_ylabel("mean silhouette coefficient (Euclidean)", color=SECOND)
    for row, value in zip(rows, values, strict=True):
        if row["inflection"]:
            other.plot(row["layer"], value, "s", markersize=9, fillstyle="none", color=SECOND)
    single, data = study["single"], study["data"][0]
    _mark(axes, single["by_sweep"]["layer"], "best score", QUIET, ":")
    _mark(axes, single["by_silhouette"]["layer"], "best by its silhouette", INK, "-")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(
        f"{data['path']}: {data['num_rows']:,} rows, {study['settings']['model']}", fontsize=11
    )
    axes.set_title("squares: inflection points of the silhouette", fontsize=9, color=QUIET)
    save(figure, path)


def _numbers(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [float("nan") if row[name] is None else row[name] for row in rows]


def _mark(axes: Any, layer: int | None, label: str, color: str, style: str) -> None:
    if layer is not None:
        axes.axvline(layer, color=color, linestyle=style, linewidth=1, label=f"{label}: {layer}")
