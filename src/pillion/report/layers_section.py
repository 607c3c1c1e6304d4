"""The section of a study of layers: what each holds, what sets of them give and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pillion.report.charts import Line, line_chart
from pillion.report.tables import facts


def layers_section(content: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `layers.html.j2`.

    Args:
        content: of the result file, as `pillion.select.result` makes it.
    """
    data, settings = content["data"][0], content["settings"]
    return {
        "title": f"Layers for {data['path']}",
        "data": data,
        "settings": settings,
        "recommended": content["recommended"],
        "charts": [
            _chart(content, "score", f"{settings['score']} of a ridge classifier"),
            _chart(content, "silhouette", "mean silhouette coefficient"),
        ],
        "sets": content["sets"],
        "single": content["single"],
        "rows": content["results"],
        "has_weights": any(row["weight"] is not None for row in content["results"]),
        "facts": facts(content),
    }


def _chart(content: Mapping[str, Any], name: str, y_label: str) -> dict[str, str]:
    rows = content["results"]
    points = [(float(row["layer"]), row[name]) for row in rows if row[name] is not None]
    title = name.capitalize()
    if not points:
        return {"title": title, "note": "Undefined: the rows of a label are too few."}
    line = Line(points, 0 if name == "score" else 1, dots=True)
    marks = [float(layer) for layer in content["recommended"]["layers"]]
    svg = line_chart([line], "layer (0: embeddings)", y_label, unit=False, marks=marks)
    note = "Each layer alone; dotted: the recommended layers."
    return {"title": title, "svg": svg, "note": note}
