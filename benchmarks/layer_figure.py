"""The figure of Gwak and Jung (KNIT 2025) from result files: score and silhouette of every layer.

    python -m benchmarks.layer_figure

Draws `docs/plots/layer-identification.png`: a row a data set, a line a model; squares are points of
inflection of the silhouette, a star is the best score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.result_file import RESULTS
from pillion.report.figure import FIRST, SECOND, new_figure, save
from pillion_bench.report import read_result

PLOT = Path(__file__).parents[1] / "docs" / "plots" / "layer-identification.png"
DATA_SETS = {"emotion": "Emotion", "agnews": "AG News"}
MODELS = {
    "": ("SmolLM2-135M-Instruct", FIRST),
    "-qwen2.5-coder-0.5b": ("Qwen2.5-Coder-0.5B", SECOND),
}


def main() -> None:
    figure = new_figure(9.0, 6.4)
    panels = figure.subplots(len(DATA_SETS), 2)
    for (data, title), (left, right) in zip(DATA_SETS.items(), panels, strict=True):
        for suffix, (model, color) in MODELS.items():
            content = read_result(RESULTS / f"layers-{data}{suffix}.json")
            draw(left, right, content, model, color)
        left.set_ylabel(f"{title}: accuracy")
        right.set_ylabel("mean silhouette")
        for axes in (left, right):
            axes.set_xlabel("depth (0: embeddings, 1: last layer)")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save(figure, PLOT)


def draw(left: Any, right: Any, content: dict[str, Any], model: str, color: str) -> None:
    """One model's two lines."""
    rows = [row for row in content["results"] if row["metric"] == "layer"]
    last = max(row["layer"] for row in rows)
    depths = [row["layer"] / last for row in rows]
    left.plot(depths, [row["score"] for row in rows], color=color, marker="o", ms=3, label=model)
    best = max(rows, key=lambda row: row["score"])
    left.plot(best["layer"] / last, best["score"], "*", color=color, ms=12)
    right.plot(depths, [row["silhouette"] for row in rows], color=color, marker="o", ms=3)
    for row in rows:
        if row["inflection"]:
            place = row["layer"] / last
            right.plot(place, row["silhouette"], "s", color=color, ms=9, fillstyle="none")


if __name__ == "__main__":
    main()
