"""Tables, plots and pages of results: plain values in, a file out; nothing is measured here.

Knows result files, none of the parts that they come from. The only part that knows Matplotlib,
which is imported when a plot is drawn.
"""

from pillion.report.accuracy_page import plain_table, section, with_sections
from pillion.report.accuracy_result import AccuracyResult
from pillion.report.pages import read_result, write_accuracy_page

__all__ = [
    "AccuracyResult",
    "plain_table",
    "read_result",
    "section",
    "with_sections",
    "write_accuracy_page",
]
