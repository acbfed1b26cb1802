"""Tables for terminals, as narrow as they can be: 80 columns are enough for every command."""

from rich import box
from rich.table import Table

STATE = 11
"""Least width of a column of states, so that no word of theirs is broken."""


def narrow(title: str) -> Table:
    """An empty table with one space between its columns and no other lines than the one below its head."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
