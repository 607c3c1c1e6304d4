"""Is it real? What a probe owes to chance, length and duplicates, and where it still works.

One study of one data set, one result file. Knows no plots.
"""
