"""Soft labels for rows that have none, by a judge: another server, another probe, a classifier.

Promises a probability for every label or the reason why not, row by row, and that nothing is asked
twice. Does not know files of rows nor training.
"""

from pillion.labelling.base import Judge, JudgeAnswer
from pillion.labelling.classifier import ClassifierJudge
from pillion.labelling.journal import Journal
from pillion.labelling.probe import ProbeJudge
from pillion.labelling.run import label_texts
from pillion.labelling.server import ServerJudge

__all__ = [
    "ClassifierJudge",
    "Journal",
    "Judge",
    "JudgeAnswer",
    "ProbeJudge",
    "ServerJudge",
    "label_texts",
]
