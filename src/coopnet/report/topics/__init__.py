"""One module per topic of a report: its sentences, its figure and its table, all computed from a study's tables.

No sentence states a result in advance. A section without data does not appear.
"""
