"""How good verdicts are, and where to decide: measured and chosen on labelled rows.

Knows no plots.
"""

from pillion.evals.by_label import by_label
from pillion.evals.calibrate import CalibrationSettings, calibrate, raw_artefact
from pillion.evals.evaluation import evaluation, result_of
from pillion.evals.exits import ExitWish, check_exit, choose_exit
from pillion.evals.measure import measure
from pillion.evals.operating import Operating
from pillion.evals.profiles import layer_profiles
from pillion.evals.running import Scored, largest_probs, measure_running, score
from pillion.evals.scoring import (
    Labelled,
    chosen_rows,
    depth_logits,
    in_contexts,
    own_rows,
    probs_of,
    score_rows,
)
from pillion.evals.wishes import check_wishes, notes_of

__all__ = [
    "CalibrationSettings",
    "ExitWish",
    "Labelled",
    "Operating",
    "Scored",
    "by_label",
    "calibrate",
    "check_exit",
    "check_wishes",
    "choose_exit",
    "chosen_rows",
    "depth_logits",
    "evaluation",
    "in_contexts",
    "largest_probs",
    "layer_profiles",
    "measure",
    "measure_running",
    "notes_of",
    "own_rows",
    "probs_of",
    "raw_artefact",
    "result_of",
    "score",
    "score_rows",
]
