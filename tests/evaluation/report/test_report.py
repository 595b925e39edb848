"""Reports: what they say, that nasty names are harmless, that they stay small, and that a browser shows them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reflectzoo.drawing.error_map import error_map
from reflectzoo.evaluation.published import published_for
from reflectzoo.evaluation.report import pictures, write_report
from reflectzoo.evaluation.report.__main__ import main
from reflectzoo.evaluation.report.pictures import choose_cases, draw_cases
from reflectzoo.evaluation.report.plots import Point, distribution, nice_ticks, scatter
from reflectzoo.evaluation.report.tables import make_tables
from reflectzoo.evaluation.report.text import made_worse
from reflectzoo.evaluation.results import read_results
from tests.evaluation.conftest import SIZES, Evaluate
from tests.evaluation.report.browser import Browser, chromium
from tests.evaluation.report.conftest import ENTRIES, NASTY, SETS, make_run


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Path]:
    return write_report(run)


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_published_numbers_stand_beside_ours_and_conflicts_are_ranges(run: Path) -> None:
    results = read_results(run)
    tables = make_tables(results)
    assert [(table.layer, table.dataset) for table in tables.tables] == [
        ("transmission", "average"), ("transmission", "real20"), ("transmission", "own"),
    ]  # fmt: skip
    real20 = tables.tables[1]
    lines = {line.name: line for line in real20.lines}
    assert [line.name for line in real20.lines[:3]] == list(ENTRIES)
    assert lines["ours"].cells[0].low == results["averages"]["ours"]["real20"]["transmission"]["psnr"]
    said = [fact for fact in published_for(["Real20"]) if fact.label == "BDN" and fact.metric == "PSNR"]
    assert len({fact.value for fact in said}) > 1, "choose another conflict for this test"
    cell = lines["BDN"].cells[0]
    assert (cell.low, cell.high) == (min(f.value for f in said), max(f.value for f in said))
    assert "–" in cell.text
    assert {tables.sources[source] for _, source, _ in cell.said} == {fact.source for fact in said}
    assert any(sentence.startswith("BDN, PSNR: ") for sentence in real20.conflicts)
    assert not any(line.kind == "published" for line in tables.tables[2].lines)
    assert not any(line.kind == "published" for table in make_tables(results, False).tables for line in table.lines)


def test_best_and_second_best_are_of_their_group_and_of_whole_sets(run: Path) -> None:
    results = read_results(run)
    for table in make_tables(results).tables:
        for place, column in enumerate(table.columns):
            for kind in ("measured", "published"):
                cells = [line.cells[place] for line in table.lines if line.kind == kind and line.cells[place].low]
                if len(cells) < 3:
                    continue
                best = [cell for cell in cells if cell.rank == 1]
                others = [cell for cell in cells if cell.rank != 1]
                assert best
                sign = 1 if column.higher_is_better else -1
                assert min(sign * (c.low + c.high) for c in best) >= max(sign * (c.low + c.high) for c in others) - 0.02
    results["averages"]["ours"]["real20"]["missing"] = 1
    ours = next(line for line in make_tables(results).tables[1].lines if line.name == "ours")
    assert [cell.rank for cell in ours.cells] == [0, 0]


def test_worst_and_best_are_ten_each_and_no_picture_is_both(run: Path) -> None:
    results = read_results(run)
    cases = choose_cases(results)
    values = {
        (row["entry"], row["image"]): row["transmission"]["psnr"] for row in results["images"] if row["set"] == "real20"
    }
    for entry in ENTRIES[1:]:
        gains = {image: value - values["input", image] for (name, image), value in values.items() if name == entry}
        ordered = sorted(gains, key=lambda name: gains[name])
        of_set = [case for case in cases if case.row["entry"] == entry and case.row["set"] == "real20"]
        assert [case.row["image"] for case in of_set if case.side == "worst"] == ordered[:10]
        assert [case.row["image"] for case in of_set if case.side == "best"] == ordered[:-11:-1]
        small = [case.row["image"] for case in cases if case.row["entry"] == entry and case.row["set"] == "own"]
        assert len(small) == len(set(small)) == SETS["own"]
    assert not any(case.row["entry"] == "input" for case in cases)


def test_what_was_made_worse_is_told_everywhere(run: Path, report: dict[str, Path]) -> None:
    results = read_results(run)
    before = {(r["set"], r["image"]): r["transmission"]["psnr"] for r in results["images"] if r["entry"] == "input"}
    harmed = [
        row["image"]
        for row in results["images"]
        if row["entry"] == "ours" and row["set"] == "real20"
        if row["transmission"]["psnr"] < before[row["set"], row["image"]] - 0.005
    ]
    worse = next(each for each in made_worse(results) if (each.entry, each.dataset) == ("ours", "Real20"))
    assert sorted(case.row["image"] for case in worse.cases) == sorted(harmed)
    assert worse.total == 25
    assert [case.gain for case in worse.cases] == sorted(case.gain for case in worse.cases)
    assert f"{len(harmed)} of 25 pictures of Real20 are worse than the untouched input, by PSNR" in worse.sentence
    page = report["html"].read_text(encoding="utf-8")
    assert f"ours on Real20: {len(harmed)} of 25 pictures" in page
    assert f"{len(harmed)} of 25 pictures of Real20 are worse" in report["md"].read_text(encoding="utf-8")
    # Those that are shown are linked with.
    first = worse.cases[0].row["image"]
    (place,) = re.findall(rf'<a href="#(case-\d+)">{first}</a>', page.split("ours on Own")[0])
    assert f'id="{place}"' in page
    for case in json.loads(report["json"].read_text(encoding="utf-8"))["cases"]:
        assert case["gain"] == pytest.approx(case["value"] - case["input"])


def test_every_picture_least_gained_first(run: Path, report: dict[str, Path]) -> None:
    page = report["html"].read_text(encoding="utf-8")
    table = page[page.index('id="rows"') :]
    gains = [float(text) for text in re.findall(r'<td data-v="([^"]+)">[+-]\d', table)]
    assert len(gains) == 2 * sum(SETS.values())
    assert gains == sorted(gains)


def test_every_format_says_the_same(report: dict[str, Path], run: Path) -> None:
    results = read_results(run)
    mean = results["averages"]["ours"]["average"]["transmission"]["psnr"]
    rows = list(csv.DictReader(report["csv"].open(encoding="utf-8")))
    (row,) = [r for r in rows if (r["method"], r["set"], r["metric"]) == ("ours", "average", "psnr")]
    assert float(row["low"]) == float(row["high"]) == mean
    content = json.loads(report["json"].read_text(encoding="utf-8"))
    assert content["tables"][0]["lines"][1]["cells"][0]["low"] == mean
    assert f"{mean:.2f}" in report["md"].read_text(encoding="utf-8")
    assert f"{mean:.2f}" in report["html"].read_text(encoding="utf-8")
    for sentence in (content["warnings"][0], "ab" * 32, results["fingerprint"]):
        assert sentence in report["html"].read_text(encoding="utf-8")
        assert sentence in report["md"].read_text(encoding="utf-8")
    assert "25 pictures here, published numbers use 20" in content["warnings"][0]


def test_names_are_harmless_and_nothing_is_fetched(report: dict[str, Path]) -> None:
    page = report["html"].read_text(encoding="utf-8")
    tags = Tags(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert NASTY not in page
    assert "&lt;script&gt;" in page
    assert NASTY not in report["md"].read_text(encoding="utf-8")
    for tag, attributes in tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href"):
            assert re.match(r"data:image/webp;base64,|#", attributes.get(name) or "#"), (tag, attributes.get(name))
    markdown = report["md"].read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in markdown if line.startswith("| ours | own | worst 1 ")] or [""]
    assert line.replace("\\|", "").count("|") == 8


def test_a_report_without_stored_pictures_says_so(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run", pictures=False))["html"].read_text(encoding="utf-8")
    assert "save_pictures=true" in page
    assert "data:image" not in page


def test_pictures_shrink_and_become_fewer_until_they_fit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = read_results(run)
    whole, remark = draw_cases(results, run)
    size = sum(len(uri) for case in whole for uri in case.uris.values())
    assert remark == ""
    assert all({"input", "ours", "truth", "error", "removed"} <= set(case.uris) for case in whole)
    monkeypatch.setattr(pictures, "_LADDER", ((60, 80), (12, 10)))
    smaller, remark = draw_cases(results, run, size // 2)
    assert remark == ""
    assert len(smaller) == len(whole)
    fewer, remark = draw_cases(results, run, size // 40)
    assert 0 < len(fewer) < len(whole)
    assert "Only" in remark
    assert sum(len(uri) for case in fewer for uri in case.uris.values()) <= size // 40
    none, remark = draw_cases(results, run, 100)
    assert not any(case.uris for case in none)
    assert "too many" in remark


def test_error_maps_rise_in_lightness() -> None:
    truth = np.zeros((1, 65, 3), np.uint8)
    ours = np.arange(65, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    colours = error_map(ours, truth).astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(colours[0]) >= 0).all()
    assert (error_map(ours + 100, truth)[0, 0] == error_map(ours + 150, truth)[0, 0]).all()


def test_plots_hold_every_score_and_no_markup_of_names() -> None:
    svg = distribution({NASTY: [1.0, 2.0, 4.0], "b": [3.0]}, "PSNR")
    assert svg.count("<circle") == 4
    assert "<script" not in svg
    assert "median 2" in svg
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert distribution({"same": [5.0, 5.0]}, "PSNR").count("<circle") == 2
    with pytest.raises(ValueError, match="nothing to draw"):
        distribution({"a": []}, "PSNR")


def test_a_scatter_has_a_mark_for_each_picture_and_a_line_at_zero() -> None:
    points = {NASTY: [Point(1, -2, NASTY), Point(5, 3, "b")], "other": [Point(2, 1, "c")]}
    svg = scatter(points, "strength", "gain <dB>")
    assert svg.count("<title>") == 3
    assert svg.count('class="mark m0"') == 3  # two pictures and the legend
    assert svg.count('class="mark m1"') == 2
    assert svg.count('class="zero"') == 1
    assert "<script" not in svg
    assert "gain &lt;dB&gt;" in svg
    with pytest.raises(ValueError, match="nothing to draw"):
        scatter({"a": []}, "x", "y")


def test_the_command_refuses_what_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"reflectzoo: There is no result {tmp_path}")
    run = make_run(tmp_path / "run")
    shutil.rmtree(run / "pictures")
    assert main([str(run)]) == 2
    assert "save_pictures=true" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def staged_table(folder: Path) -> dict[str, Any]:
    """The table with pictures, as W&B keeps it for ``wandb sync``; its own preview in the run has none."""
    found = []
    for path in (folder / "artifacts" / "staging").iterdir():
        if path.read_bytes()[:1] == b"{":
            found.append(json.loads(path.read_text()))
    tables = [content for content in found if "ours" in content.get("columns", [])]
    assert tables
    assert all(table == tables[0] for table in tables)
    return tables[0]


def test_evaluate_writes_it_and_tells_wandb(
    evaluate: Evaluate, pairs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_ERROR_REPORTING", "false")):
        monkeypatch.setenv(name, value)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "w"))
    done = evaluate("benchmark=folder", f"data.root={pairs}", "save_pictures=true", "logger=wandb")
    assert done.status == 0, done.err
    assert all((done.folder / f"report.{kind}").is_file() for kind in ("html", "md", "csv", "json"))
    (media,) = (done.folder / "wandb").glob("offline-run-*/files/media")
    content = staged_table(tmp_path / "w")
    assert [row[2] for row in content["data"]] == ["a", "b c", "e", "f.1", "sub/d"]
    for what in ("input", "ours", "truth", "error"):
        pictured = content["data"][1][content["columns"].index(what)]
        assert pictured["_type"] == "image-file"
        assert (pictured["height"], pictured["width"]) == SIZES["b c"]
    assert list(media.rglob("scores_*.table.json"))
    quiet = evaluate("benchmark=folder", f"data.root={pairs}", "report=false", folder="quiet")
    assert quiet.status == 0, quiet.err
    assert not list(quiet.folder.glob("report.*"))
    assert not (quiet.folder / "wandb").exists()


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium")
def test_a_browser_shows_it_drags_and_sorts(report: dict[str, Path], tmp_path: Path) -> None:
    program = chromium()
    assert program
    with Browser(program, tmp_path / "profile") as page:
        page.open(report["html"], 1280, 900)
        assert page.run("document.querySelectorAll('.case').length") == 2 * (20 + 3)
        overs = "[...document.querySelectorAll('.compare .over')].slice(0, 8)"
        decoded = f"Promise.all({overs}.map(i => i.decode().then(() => i.naturalWidth)))"
        assert set(page.run(decoded)) == {60}
        assert len(page.screenshot(tmp_path / "desktop.png").read_bytes()) > 10_000

        # The bar follows the mouse, and the arrow keys.
        box = _show(page, ".compare")
        y = box["top"] + box["height"] / 2
        page.drag((box["left"] + box["width"] * 0.5, y), (box["left"] + box["width"] * 0.2, y))
        assert page.run("document.querySelector('.compare input').value") == "20"
        assert page.run("document.querySelector('.compare').style.getPropertyValue('--at')") == "20%"
        bar = page.run("document.querySelector('.compare .bar').getBoundingClientRect().left")
        assert bar == pytest.approx(box["left"] + box["width"] * 0.2, abs=2)
        page.run("document.querySelector('.compare input').focus()")
        page.press("ArrowRight", 39)
        assert page.run("document.querySelector('.compare').style.getPropertyValue('--at')") == "21%"
        left, right = _colours(page.screenshot(tmp_path / "dragged.png"), box)
        assert np.abs(left - right).max() > 4, "both sides of the bar show the same picture"

        # A small picture goes onto the right side.
        page.run("document.querySelector('.thumbs [data-what=truth]').click()")
        same = "document.querySelector('.compare .over').src === document.querySelector('[data-what=truth] img').src"
        assert page.run(same) is True
        assert page.run("document.querySelector('.sides [data-side=r]').value") == "truth"

        # Two entries beside each other.
        choose = "(s => {{ s.selectedIndex = {place}; s.dispatchEvent(new Event('change')) }})"
        page.run(choose.format(place=1) + "(document.querySelector('.sides [data-side=l]'))")
        page.run(choose.format(place=2) + "(document.querySelector('.sides [data-side=r]'))")
        names = "[...document.querySelectorAll('.sides')][0].querySelectorAll('select')"
        assert page.run(f"[...{names}].map(s => s.value)") == ["ours", NASTY]
        for side, place in (("under", 1), ("over", 2)):
            shown = f"document.querySelector('.compare .{side}').src"
            assert page.run(f"{shown} === document.querySelectorAll('.thumbs img')[{place}].src") is True

        # Columns sort as numbers both ways, and rows can be chosen.
        visible = "[...document.getElementById('rows').tBodies[0].rows].filter(r => !r.hidden)"
        values = f"{visible}.map(r => +r.cells[5].dataset.v)"
        before = page.run(values)
        button = _show(page, "#rows thead th:nth-child(6) button")
        for order in (1, -1):
            where = (button["left"] + 10, button["top"] + button["height"] / 2)
            page.mouse("mousePressed", *where)
            page.mouse("mouseReleased", *where)
            assert page.run(values) == sorted(before, reverse=order < 0) != before
        page.run(
            "(s => { s.value = 'ours'; s.dispatchEvent(new Event('change')) })"
            "(document.querySelector('[data-filter=entry]'))"
        )
        assert len(page.run(values)) == sum(SETS.values())

        # On a phone nothing sticks out sideways, and a finger moves the bar.
        page.open(report["html"], 375, 740, mobile=True)
        assert page.run("document.documentElement.scrollWidth") <= 375
        page.screenshot(tmp_path / "phone.png")
        box = _show(page, ".compare")
        assert box["width"] > 300
        y = box["top"] + box["height"] / 2
        page.swipe((box["left"] + box["width"] * 0.5, y), (box["left"] + box["width"] * 0.8, y))
        assert 75 <= int(page.run("document.querySelector('.compare input').value")) <= 85
        page.screenshot(tmp_path / "phone_cases.png")
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


def _show(page: Browser, selector: str) -> dict[str, float]:
    """Scroll there; where it is in the window then."""
    return page.run(
        f"(e => {{ e.scrollIntoView({{block: 'center'}}); return new Promise(done => requestAnimationFrame(() => "
        f"done(e.getBoundingClientRect().toJSON()))) }})(document.querySelector({selector!r}))"
    )


def _colours(shot: Path, box: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour of a strip left of 20 % and of one right of it."""
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(float)
    top, height = int(box["top"] + box["height"] * 0.2), int(box["height"] * 0.6)
    strips = []
    for share in (0.05, 0.3):
        start = int(box["left"] + box["width"] * share)
        strips.append(pixels[top : top + height, start : start + int(box["width"] * 0.1)].mean((0, 1)))
    return strips[0], strips[1]


def test_wandb_tables_have_pictures_where_the_report_has(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input's rows have none here, and come first: a column must not be taken for one without pictures."""
    from reflectzoo.evaluation.report.logged import log_results
    from reflectzoo.training.loggers import wandb

    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "w"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_results([wandb(str(tmp_path), mode="offline")], read_results(run), run)
    (media,) = (tmp_path / "wandb").glob("offline-run-*/files/media")
    content = staged_table(tmp_path / "w")
    column = content["columns"].index("ours")
    pictured = [row[column] for row in content["data"]]
    assert sum(isinstance(cell, dict) for cell in pictured) == 2 * (20 + 3)
    assert pictured[0] is None
    (path,) = media.rglob("scores_*.table.json")
    kinds = [row[1] for row in json.loads(path.read_text())["data"]]
    assert {"measured", "published"} == set(kinds)
