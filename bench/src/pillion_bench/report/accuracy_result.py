"""The result file of `pillion bench accuracy`, and what of it is shown.

Promises that a number that is missing is None, with the reason where there is one. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "tpr_at_fpr_1": "TPR at 1 % FPR",
    "tpr_at_fpr_01": "TPR at 0.1 % FPR",
    "ece": "ECE",
    "brier": "Brier",
}
ROLES = ("probe", "baseline", "mark", "control")
NOTHING = "–"


@dataclass(frozen=True)
class AccuracyResult:
    """The result file of one data set.

    Attributes:
        content: what the file holds.
    """

    content: Mapping[str, Any]

    @property
    def data_set(self) -> str:
        """Name of the data set."""
        return self.content["settings"]["data_set"]

    @property
    def split(self) -> str:
        """The rows that its numbers are of: `test`, or `validation`."""
        return self.content.get("split", "test")

    @property
    def mark(self) -> str:
        """What names its place on a page."""
        return self.data_set if self.split == "test" else f"{self.data_set}, {self.split}"

    @property
    def leading(self) -> list[str]:
        """The metrics that lead the table."""
        return self.content["settings"]["leading"]

    @property
    def is_binary(self) -> bool:
        """Whether a row has one of two labels; of a multi-label task it may have both."""
        settings = self.content["settings"]
        return settings["num_labels"] == 2 and settings.get("task", "binary") == "binary"

    @cached_property
    def entries(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """The entries by method and metric."""
        return {(e["method"], e["metric"]): e for e in self.content["results"]}

    def entry(self, method: str, metric: str) -> Mapping[str, Any] | None:
        """One entry; None where there is none."""
        return self.entries.get((method, metric))

    def value(self, method: str, metric: str) -> float | None:
        """One number; None where it is undefined or was not measured."""
        found = self.entry(method, metric)
        number = None if found is None else found["value"]
        return None if number is None else float(number)  # JSON writes whole numbers without a dot

    def methods(self) -> list[str]:
        """The methods that were measured, by role, best first."""
        named = self.content["settings"]["methods"]
        measured = [name for name in named if "not_measured" not in named[name]]

        def rank(name: str) -> tuple[int, float]:
            value = self.value(name, f"{self.split}_{self.leading[0]}")
            return ROLES.index(named[name]["role"]), -(-1.0 if value is None else value)

        return sorted(measured, key=rank)

    def role(self, method: str) -> str:
        """The role of a method in the comparison."""
        return self.content["settings"]["methods"][method]["role"]

    def metrics(self) -> list[str]:
        """The leading metrics, then those that are defined for any method of this task."""
        rest = [
            metric
            for metric in TITLES
            if metric not in self.leading
            and any(self.reason(m, metric) or self.has(m, metric) for m in self.methods())
        ]
        return [*self.leading, *rest]

    def has(self, method: str, metric: str) -> bool:
        """Whether a method has that number on the rows of the split."""
        return self.value(method, f"{self.split}_{metric}") is not None

    def reason(self, method: str, metric: str) -> str:
        """Why a number is missing, if not just because it is undefined for the task."""
        found = self.entry(method, f"{self.split}_{metric}")
        reason = "" if found is None else found.get("reason", "")
        return reason if reason.startswith("not enough") else ""

    def recalls(self) -> list[str]:
        """The labels whose recall was measured."""
        start = f"{self.split}_recall of "
        named = (metric for _, metric in self.entries if metric.startswith(start))
        return list(dict.fromkeys(metric.removeprefix(start) for metric in named))

    def macro_f1(self, method: str) -> float | None:
        """F1 of both labels of a binary task, averaged; the mean over seeds.

        It follows from F1 of the positive label and accuracy: the share of errors e and F1 = 2 TP /
        (2 TP + e) give TP, and so TN = 1 - TP - e.
        """
        if not self.is_binary:
            return None
        found = [self.entry(method, f"{self.split}_{name}") for name in ("f1", "accuracy")]
        if any(one is None or None in one["per_seed"] for one in found):
            return None
        seeds = list(zip(*(one["per_seed"] for one in found if one), strict=True))
        return sum(_macro_f1(f1, accuracy) for f1, accuracy in seeds) / len(seeds)


def _macro_f1(f1: float, accuracy: float) -> float:
    errors = 1 - accuracy
    if errors == 0:
        return 1.0
    hits = f1 * errors / (2 * (1 - f1))
    rest = 2 * (1 - hits - errors)
    return (f1 + rest / (rest + errors)) / 2
