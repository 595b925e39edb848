"""One table, printed in four ways."""

from __future__ import annotations

import io

from rich.console import Console

from reflectzoo.cli.tables import Cell, Column, TextTable

TABLE = TextTable(
    [Column(), Column("PSNR | dB", right=True), Column("weights")],
    [
        ["a_b", Cell("21.5", "best"), Cell("12_34", "code")],
        ["longer [1]", [Cell("9.5"), Cell("0.8", "second")], "none"],
    ],
    "Some <scores>",
    [[Cell("paper", "dim"), Cell("20"), Cell("[x]", written="*x*")]],
)


def test_lines_of_text_are_aligned() -> None:
    assert TABLE.plain() == [
        "            PSNR | dB  weights",
        "a_b              21.5  12_34",
        "longer [1]  9.5 / 0.8  none",
        "paper              20  [x]",
    ]


def test_markdown_shows_what_is_written_and_marks_the_best() -> None:
    assert TABLE.markdown() == [
        r"|  | PSNR \| dB | weights |",
        "| --- | ---: | --- |",
        r"| a\_b | **21.5** | `12_34` |",
        r"| longer \[1\] | 9.5 / *0.8* | none |",
        "| paper | 20 | *x* |",
    ]


def test_csv_and_html() -> None:
    assert TABLE.csv() == ",PSNR | dB,weights\na_b,21.5,12_34\nlonger [1],9.5 / 0.8,none\npaper,20,[x]\n"
    assert TABLE.html() == (
        '<table><thead><tr><th scope="col" class="words"></th><th scope="col">PSNR | dB</th>'
        '<th scope="col" class="words">weights</th></tr></thead><tbody>'
        '<tr><th scope="row" class="words">a_b</th><td><b>21.5</b></td><td class="words"><code>12_34</code></td></tr>'
        '<tr><th scope="row" class="words">longer [1]</th><td>9.5 / <i>0.8</i></td><td class="words">none</td></tr>'
        '</tbody><tbody><tr><th scope="row" class="words">paper</th><td>20</td><td class="words">[x]</td></tr></tbody>'
        "</table>"
    )


def test_a_page_can_sort_point_and_link() -> None:
    table = TextTable(
        [Column("a", right=True), Column("<b>", right=True)],
        [[Cell("x", markup='<a href="#1">x</a>'), Cell("1.5", hint='"so"', order=1.4567890123)]],
        below=[["y", "2"]],
        apart="<others>",
    )
    assert table.html("rows", sortable=True, sorted_by=1) == (
        '<table id="rows"><thead><tr><th scope="col"><button>a</button></th>'
        '<th scope="col" aria-sort="ascending"><button>&lt;b&gt;</button></th></tr></thead>'
        '<tbody><tr><th scope="row"><a href="#1">x</a></th>'
        '<td title="&quot;so&quot;" data-v="1.45678901">1.5</td></tr></tbody>'
        '<tbody><tr class="apart"><th colspan="2">&lt;others&gt;</th></tr>'
        '<tr><th scope="row">y</th><td>2</td></tr></tbody></table>'
    )


def test_a_terminal_shows_brackets_as_they_are() -> None:
    for boxed in (True, False):
        file = io.StringIO()
        Console(width=60, file=file).print(TABLE.rich(boxed))
        shown = file.getvalue()
        for each in ("Some <scores>", "PSNR | dB", "longer [1]", "9.5 / 0.8", "[x]"):
            assert each in shown
        assert shown.index("paper") > shown.index("longer")
