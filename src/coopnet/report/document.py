"""The structure of a report, the same for the web page and the PDF: sections of sentences, tables and pictures."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller line below, a tone (`code`, `yes`, `no` or nothing), the section it leads to."""

    text: str
    detail: str = ""
    tone: str = ""
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading, the one it shares with its neighbours, whether it holds numbers or, `wide`, long text."""

    label: str
    group: str = ""
    numeric: bool = True
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption that says how to read it; `source` names its file, seen from the tables' folder.

    `rules` are the rows that begin a group, `headings` the lines above rows that begin a part of the table. One that is
    `folded` is for looking things up: closed on the page, at the end of the PDF.
    """

    id: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    source: str
    rules: list[int] = field(default_factory=list)
    headings: dict[int, str] = field(default_factory=dict)
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A figure by name (`figures/<name>.svg`), its caption, and what it shows in words."""

    name: str
    caption: str
    source: str
    kind: str = "figure"


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and what stands below them."""

    id: str
    title: str
    sentences: list[str]
    items: list[Table | Picture]


@dataclass(frozen=True)
class Report:
    """All of a report: `facts` are (name, value) pairs of its scale, `limits` what that scale cannot show."""

    name: str
    title: str
    description: str
    facts: list[tuple[str, str]]
    limits: list[str]
    sections: list[Section]
