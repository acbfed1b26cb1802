"""The sections of a report, one module each, every sentence computed from the study's tables.

A module has `section(tables)`, which returns None where the study has nothing to say, and `brief(tables)` where it has
sentences for the summary.
"""
