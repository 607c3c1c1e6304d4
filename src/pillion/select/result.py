"""The result file of a study of layers: what `--json` prints, and a report is made of.

Promises JSON values. Draws nothing, and knows no texts.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pillion.metrics import Interval
from pillion.provenance import provenance
from pillion.select.identify import Identification

KIND = "layers"


def study_result(
    found: Identification, name: str, data: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """The content of the result file.

    Args:
        found: of the layers.
        name: of the data, in the result's name.
        data: `path`, `sha256` and `num_rows` of the rows that were read.
        settings: model, pooling, template and scope.
    """
    scores = {row.layer: row.score for row in found.rows}
    chosen = next(one for one in found.sets if one.layers == found.auto)
    return {
        "name": f"{KIND}-{name}",
        "kind": KIND,
        **provenance(),
        "seed": 0,
        "data": [data],
        "settings": {**settings, "score": found.score_name},
        "results": [asdict(row) for row in found.rows],
        "recommended": {"layers": list(found.auto), "score": chosen.score},
        "sets": [
            {"num_layers": len(one.layers), "layers": list(one.layers), "score": one.score}
            | {"more_than_recommended": _difference(lead)}
            | asdict(cost)
            for one, lead, cost in zip(found.sets, found.leads, found.costs, strict=True)
        ],
        "single": {
            f"by_{rule}": {"layer": layer, "score": None if layer is None else scores[layer]}
            for rule, layer in found.picked.items()
        }
        | {f"lost_by_{rule}": _difference(lost) for rule, lost in found.lost.items()},
    }


def _difference(found: Interval | None) -> dict[str, Any] | None:
    """A difference of scores and its 95 % interval over draws of the rows."""
    return found and {"value": found.estimate, "interval": [found.low, found.high]}
