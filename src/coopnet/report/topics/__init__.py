"""What a report says, a module per topic: its sentences, its figure and its table, all filled in from a study's tables.

No sentence states a result in advance. A section without data does not appear.
"""
