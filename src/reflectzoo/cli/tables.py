"""Tables that can be rendered for a terminal and as plain text, Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:  # rich is imported lazily, for terminals only
    from rich.table import Table as RichTable
    from rich.text import Text

Mark: TypeAlias = Literal["", "best", "second", "dim", "warning", "code"]

_STYLES = {"": "", "best": "bold", "second": "italic", "dim": "dim", "warning": "red", "code": ""}
_AROUND = {"best": "**", "second": "*", "code": "`"}
_TAGS = {"best": "b", "second": "i", "warning": "strong", "code": "code"}


class Column(NamedTuple):
    """A column.

    Attributes:
        heading: column heading.
        right: right-align the cells, as for numbers.
        whole: do not wrap the cells in a terminal.
    """

    heading: str = ""
    right: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Cell:
    """Content of a cell.

    Attributes:
        text: not escaped.
        mark: emphasis.
        written: Markdown to use in place of the text.
        markup: HTML to use in place of the text.
        hint: tooltip in HTML.
        order: sort key in HTML, with more digits than the text.
    """

    text: str
    mark: Mark = ""
    written: str = ""
    markup: str = ""
    hint: str = ""
    order: float | None = None

    @property
    def markdown(self) -> str:
        """The cell as Markdown, with its mark; code is not escaped."""
        around = _AROUND.get(self.mark, "")
        return f"{around}{self.written or (self.text if self.mark == 'code' else escape(self.text))}{around}"

    @property
    def html(self) -> str:
        """The cell as HTML, with its mark."""
        tag, text = _TAGS.get(self.mark), self.markup or html.escape(self.text)
        return f"<{tag}>{text}</{tag}>" if tag else text


Place: TypeAlias = str | Cell | Sequence[Cell]
"""Content of a table cell: one cell, or several separated by slashes."""


@dataclass(frozen=True)
class TextTable:
    """A table.

    Attributes:
        columns: headings and layout.
        rows: a cell, or several, per column.
        title: table title.
        below: further rows, separated from the others.
        apart: heading of these rows in HTML.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Place]]
    title: str = ""
    below: Sequence[Sequence[Place]] = ()
    apart: str = ""

    def rich(self, boxed: bool = True) -> RichTable:
        """The table for a terminal.

        Args:
            boxed: draw borders, and cut off words that are too long; otherwise, long words are wrapped and the title is
                left-aligned.
        """
        from rich.table import Table as RichTable
        from rich.text import Text

        title = Text(self.title) if self.title else None
        table = RichTable(title=title) if boxed else RichTable(title=title, title_justify="left", box=None)
        table.pad_edge = boxed
        for column in self.columns:
            justify: Literal["right", "left"] = "right" if column.right else "left"
            table.add_column(
                Text(column.heading), justify=justify, overflow="ellipsis" if boxed else "fold", no_wrap=column.whole
            )
        for row in self.rows:
            table.add_row(*map(_styled, row))
        if self.below:
            table.add_section()
        for row in self.below:
            table.add_row(*map(_styled, row))
        return table

    def plain(self) -> list[str]:
        """Lines of text, columns separated by two spaces, without the title."""
        texts = [[each.heading for each in self.columns], *([_text(each) for each in row] for row in self._all)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        return ["  ".join(self._aligned(row, widths)).rstrip() for row in texts]

    def _aligned(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        return [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, self.columns, strict=True)
        ]

    def markdown(self) -> list[str]:
        """Lines of Markdown, without the title."""
        return [
            _row([escape(column.heading) for column in self.columns]),
            _row(["---:" if column.right else "---" for column in self.columns]),
            *(_row([" / ".join(cell.markdown for cell in _cells(each)) for each in row]) for row in self._all),
        ]

    def csv(self) -> str:
        """Headings and texts as CSV, without marks and title."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.heading for column in self.columns])
        writer.writerows([_text(each) for each in row] for row in self._all)
        return file.getvalue()

    def html(self, name: str = "", sortable: bool = False, sorted_by: int | None = None) -> str:
        """A ``table`` element, without the title. Left-aligned cells have the class ``words``.

        Args:
            name: ``id`` of the element; none if empty.
            sortable: put a button into each heading, for a script on the page that sorts, by ``data-v`` where present.
            sorted_by: index of the column by which the rows are sorted in ascending order.
        """
        heads = []
        for place, column in enumerate(self.columns):
            text = html.escape(column.heading)
            order = ' aria-sort="ascending"' if place == sorted_by else ""
            kind = "" if column.right else ' class="words"'
            heads.append(f'<th scope="col"{kind}{order}>{f"<button>{text}</button>" if sortable else text}</th>')
        body = "".join(map(self._html_row, self.rows))
        below = "".join(map(self._html_row, self.below))
        if below:
            apart = html.escape(self.apart)
            title = f'<tr class="apart"><th colspan="{len(self.columns)}">{apart}</th></tr>' if apart else ""
            below = f"<tbody>{title}{below}</tbody>"
        start = f'<table id="{html.escape(name)}">' if name else "<table>"
        return f"{start}<thead><tr>{''.join(heads)}</tr></thead><tbody>{body}</tbody>{below}</table>"

    def _html_row(self, row: Sequence[Place]) -> str:
        cells = []
        for place, (each, column) in enumerate(zip(row, self.columns, strict=True)):
            first = _cells(each)[0]
            about = "" if column.right else ' class="words"'
            about += f' title="{html.escape(first.hint)}"' if first.hint else ""
            about += "" if first.order is None else f' data-v="{first.order:.9g}"'
            kind = 'th scope="row"' if place == 0 else "td"
            cells.append(f"<{kind}{about}>{_html(each)}</{kind[:2]}>")
        return f"<tr>{''.join(cells)}</tr>"

    @property
    def _all(self) -> list[Sequence[Place]]:
        return [*self.rows, *self.below]


def escape(text: str) -> str:
    r"""Escape text so that Markdown shows it literally, also within a table; collapses white space.

    Example:
        >>> escape("a|b_<c>")
        'a\\|b\\_&lt;c&gt;'
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~" else letter for letter in text)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(place: Place) -> Sequence[Cell]:
    if isinstance(place, str):
        return [Cell(place)]
    return [place] if isinstance(place, Cell) else place


def _text(place: Place) -> str:
    return " / ".join(cell.text for cell in _cells(place))


def _html(place: Place) -> str:
    return " / ".join(cell.html for cell in _cells(place))


def _styled(place: Place) -> Text:
    from rich.text import Text

    return Text(" / ").join(Text(cell.text, style=_STYLES[cell.mark]) for cell in _cells(place))
