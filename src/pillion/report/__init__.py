"""Pictures and pages of results: plain values in, a file out.

Knows none of the parts that the values come from. The only part that knows Matplotlib.
"""
