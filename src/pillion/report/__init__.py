"""Tables and plots from result files alone: nothing is measured here.

Matplotlib is imported when a plot is drawn.
"""

from pillion.report.accuracy_page import AccuracyResult, plain_table, section, with_sections
from pillion.report.pages import read_result, write_accuracy_page

__all__ = [
    "AccuracyResult",
    "plain_table",
    "read_result",
    "section",
    "with_sections",
    "write_accuracy_page",
]
