"""The structure of a report, the same for the web page, the PDF and the Markdown: sections of sentences and items."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        detail: a smaller line below.
        tone: `code`, `yes`, `no` or nothing.
        link: the id of the row or section that the text leads to, or the path of a file.
        links: instead of `text`, several words with the id that each leads to.
        value: the number that the column is sorted by, where it is not the one in `text`.
    """

    text: str
    detail: str = ""
    tone: str = ""
    link: str = ""
    links: Sequence[tuple[str, str]] = ()
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A column's heading, the one it shares with its neighbours, and whether it holds numbers or, `wide`, long text."""

    label: str
    group: str = ""
    numeric: bool = True
    wide: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its cells, the id that links lead to, and what unfolds in its first cell (a name and a text each)."""

    cells: list[Cell]
    id: str = ""
    more: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """A table with a caption that says how to read it; `source` names its file, seen from the tables' folder.

    Attributes:
        id: its anchor.
        caption: a first sentence that is its title, then how to read it.
        columns: its columns.
        rows: its rows.
        source: the file that the numbers are from.
        headings: the lines above rows that begin a part of the table.
        title: the line that unfolds it on the page; without one it is open.
        counts: beside the title: a word, and its tone.
        where: `all`; `page` alone; `paper`, the PDF alone; or `appendix`: folded on the page, and in the appendix.
    """

    id: str
    caption: str
    columns: list[Column]
    rows: list[Row]
    source: str
    headings: dict[int, str] = field(default_factory=dict)
    title: str = ""
    counts: Sequence[tuple[str, str]] = ()
    where: str = "all"
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A figure by name (`figures/<name>.svg`): its caption, and its finding in words for those who do not see it."""

    name: str
    caption: str
    alt: str
    source: str = ""
    kind: str = "figure"


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, a list of terms with their meaning, and what stands below them."""

    id: str
    title: str
    sentences: list[str]
    items: list[Table | Picture]
    terms: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Answer:
    """The answer to one question: the question in two or three words, a sentence, and the section that it is from."""

    about: str
    text: str
    link: str


@dataclass(frozen=True)
class Report:
    """All of a report.

    Attributes:
        name: of the study.
        title: one line.
        run: one line that says what was run.
        answers: what was found.
        overview: the figure beside the answers; None where nothing has a control.
        sure: how sure the answers are.
        limits: what a study of this scale cannot show.
        sections: the rest.
        references: works that are referred to.
    """

    name: str
    title: str
    run: str
    answers: list[Answer]
    overview: Picture | None
    sure: list[str]
    limits: list[str]
    sections: list[Section]
    references: Sequence[str] = ()
