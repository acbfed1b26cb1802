"""The structure of a report, the same for the web page, the PDF and the Markdown: sections of sentences and items."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the text of the cell.
        detail: a smaller line below it.
        tone: `code`, `yes`, `no` or nothing.
        link: id of a row or section, or path of a file, that the text links to.
        links: instead of `text`, several words, each with the id that it links to.
        value: the number for sorting the column, if it is not the number in `text`.
    """

    text: str
    detail: str = ""
    tone: str = ""
    link: str = ""
    links: Sequence[tuple[str, str]] = ()
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A column: its heading, a heading shared with its neighbours, and whether it has numbers or long text (`wide`)."""

    label: str
    group: str = ""
    numeric: bool = True
    wide: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its cells, its id as the target of links, and the details that unfold in its first cell (name, text)."""

    cells: list[Cell]
    id: str = ""
    more: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """A table with a caption that says how to read it.

    Attributes:
        id: its anchor.
        caption: a first sentence that is its title, then how to read it.
        columns: its columns.
        rows: its rows.
        source: the file of the numbers, relative to the tables' folder.
        headings: headings of parts of the table, by the number of the row below.
        title: on the page, the line that unfolds the table; without a title the table is always open.
        counts: words beside the title, each with its tone.
        where: `all`; `page`: only on the page; `paper`: only in the PDF; `appendix`: folded on the page, and in the
            appendix.
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
    """A figure by name (`figures/<name>.svg`): its caption, and its content in words for readers who cannot see it."""

    name: str
    caption: str
    alt: str
    source: str = ""
    kind: str = "figure"


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, tables and figures, and a list of terms with their meaning."""

    id: str
    title: str
    sentences: list[str]
    items: list[Table | Picture]
    terms: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Answer:
    """The answer to one question: the question in two or three words, a sentence, and the section with the evidence."""

    about: str
    text: str
    link: str


@dataclass(frozen=True)
class Report:
    """All of a report.

    Attributes:
        name: name of the study.
        title: one line.
        run: one line about the runs.
        answers: the findings.
        overview: the figure beside the answers; None if no experiment has a control.
        sure: sentences about the certainty of the answers.
        limits: sentences about the limits of a study of this scale.
        sections: all other content.
        references: the works that the report cites.
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
