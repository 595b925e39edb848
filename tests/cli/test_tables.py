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
        "<table><tr><th></th><th>PSNR | dB</th><th>weights</th></tr>"
        "<tr><td>a_b</td><td><b>21.5</b></td><td><code>12_34</code></td></tr>"
        "<tr><td>longer [1]</td><td>9.5 / <i>0.8</i></td><td>none</td></tr>"
        "<tr><td>paper</td><td>20</td><td>[x]</td></tr></table>"
    )


def test_a_terminal_shows_brackets_as_they_are() -> None:
    for boxed in (True, False):
        file = io.StringIO()
        Console(width=60, file=file).print(TABLE.rich(boxed))
        shown = file.getvalue()
        for each in ("Some <scores>", "PSNR | dB", "longer [1]", "9.5 / 0.8", "[x]"):
            assert each in shown
        assert shown.index("paper") > shown.index("longer")
