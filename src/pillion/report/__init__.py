"""Tables, plots and pages of results: plain values in, a file out; nothing is measured here.

Knows result files, none of the parts that they come from. The only part that knows Matplotlib,
which is imported when a plot is drawn.
"""

from pillion.report.page import read_content, render, section, write_report

__all__ = ["read_content", "render", "section", "write_report"]
