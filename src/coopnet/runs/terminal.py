"""Tables for terminals, as narrow as they can be: 80 columns are enough for every command."""

import sys

from rich import box
from rich.console import Console
from rich.table import Table

STATE = 11
"""Least width of a column of states, so that no word of theirs is broken."""


def console(width: int) -> Console:
    """A console as wide as the terminal. A pipe has no width, and gets this one, so that no cell is cut."""
    return Console(width=None if sys.stdout.isatty() else width)


def narrow(title: str) -> Table:
    """An empty table with a space between its columns, two in a pipe, and no other line than the one below its head."""
    padding = (0, 0 if sys.stdout.isatty() else 1, 0, 0)  # one space is the table's own
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=padding, pad_edge=False
    )
