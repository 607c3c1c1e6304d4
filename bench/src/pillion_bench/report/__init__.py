"""Tables and plots of a suite's result files; nothing is measured here.

Knows result files, none of the parts that they come from. The only part of the package that knows
Matplotlib, which is imported when a plot is drawn.
"""

from pillion_bench.report.accuracy_page import plain_table, section, with_sections
from pillion_bench.report.accuracy_result import AccuracyResult
from pillion_bench.report.pages import read_result, write_accuracy_page

__all__ = [
    "AccuracyResult",
    "plain_table",
    "read_result",
    "section",
    "with_sections",
    "write_accuracy_page",
]
