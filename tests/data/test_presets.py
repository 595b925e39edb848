"""Data sets of today, in small folders of their true layout: what is found, counted, held out together, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reflectzoo.config import build, compose_config
from reflectzoo.data.check import find_sets
from reflectzoo.data.datasets.pairs import PairFiles, hold_out
from reflectzoo.data.modules.presets import RRW, scene_of
from reflectzoo.errors import UserError
from tests.data import layouts

NAMES = ("openrr1k", "openrr5k", "rrw", "cdr", "nightirs", "gapfree")


def module(name: str, root: Path, *overrides: str):
    return build(compose_config([f"data={name}", f"data.root={root}", *overrides]).data)


@pytest.mark.parametrize(
    ("name", "make", "counts"),
    [
        ("openrr1k", layouts.openrr1k, {"train": 6, "val": 2, "test": 3}),
        ("openrr5k", layouts.openrr5k, {"train": 4, "val": 1, "test": 2}),
        ("rrw", layouts.rrw, {"train": 12, "val": 3}),
        ("cdr", lambda folder: layouts.cdr(folder, True), {"train": 1, "val": 1, "test": 3}),
        ("cdr", lambda folder: layouts.cdr(folder, False), {"train": 1, "val": 1, "test": 3}),
        ("nightirs", lambda folder: layouts.layered(folder, ["a", "b"], (24, 20), True), {"test": 2}),
        ("gapfree", lambda folder: layouts.layered(folder, ["a", "b"], (24, 20)), {"train": 1, "val": 1}),
    ],
)
def test_each_layout(name: str, make: Callable[[Path], Path], counts: dict[str, int], tmp_path: Path) -> None:
    found, summary = find_sets(module(name, make(tmp_path / "data")))
    assert {split: sum(map(len, sets.values())) for split, sets in found.items()} == counts
    if name in ("nightirs", "gapfree"):
        assert summary.remarks == []  # nobody says how many there are
    else:
        assert all("are published" in remark for remark in summary.remarks)
        assert summary.remarks
        assert summary.remarks[0] in str(summary)
    assert summary.left_out == []
    if "test" in found:
        assert list(found["test"]) == [name]


def test_published_counts_are_no_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reflectzoo.data.modules import presets

    parts = {name: presets.Part(count, (name,)) for name, count in (("train", 4), ("val", 2), ("test", 3))}
    monkeypatch.setattr(presets.OpenRR1k, "parts", parts)
    for name, part in parts.items():
        layouts.layered(tmp_path / name, [f"{name}{index}" for index in range(part.pairs or 0)], (24, 20))
    _, summary = find_sets(module("openrr1k", tmp_path))
    assert summary.remarks == []


def test_one_part_alone_and_its_own_folder(tmp_path: Path) -> None:
    layouts.openrr1k(tmp_path)
    alone = module("openrr1k", tmp_path / "test_100")
    assert {name: len(pairs) for name, pairs in alone.pairs_found.test.items()} == {"openrr1k": 3}
    validation = module("openrr1k", tmp_path / "val_100")
    assert len(validation.pairs_found.val) == 2


def test_cdr_says_what_its_annotation_says(tmp_path: Path) -> None:
    cdr = module("cdr", layouts.cdr(tmp_path, False))
    tags = [pair.tags for pair in cdr.pairs_found.test["cdr"]]
    assert tags == [{"type": "BRST", "reflection": "weak", "ghost": "0", "motion": "1"}] * 3
    assert all(pair.reflection is not None for pair in cdr.pairs_found.test["cdr"])
    (tmp_path / "data" / "annotation.csv").unlink()
    assert len(module("cdr", tmp_path).pairs_found.test["cdr"]) == 5
    (tmp_path / "data" / "annotation.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no columns"):
        _ = module("cdr", tmp_path).pairs_found
    (tmp_path / "data" / "annotation.csv").unlink()
    next(tmp_path.rglob("8001_8000_T_0.png")).unlink()
    notices = module("cdr", tmp_path).pairs_found.notices
    assert any("has no transmission (T) beside it" in notice.sentence for notice in notices)


def test_frames_of_one_scene_stay_together(tmp_path: Path) -> None:
    rrw = module("rrw", layouts.rrw(tmp_path), "data.val_share=0.3")
    train, held_out = rrw._split()
    scenes = [{scene_of(pair.name) for pair in pairs} for pairs in (train, held_out)]
    assert len(scenes[0]) == 3
    assert len(scenes[1]) == 2
    assert not scenes[0] & scenes[1]
    # A single scene cannot be shared out.
    one = [PairFiles(f"glass_{index}", Path("x")) for index in range(9)]
    assert hold_out(one, 0.5, RRW.scene.__get__(rrw)) == (one, [])


def test_numbers_alone_are_taken_by_the_hundred() -> None:
    assert scene_of("00123") == scene_of("00199") != scene_of("00200")
    assert scene_of("street") == "street"
    assert scene_of("a/b/7") == "a/b"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_told_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"1 entries .* https://") as told:
        _ = module(name, tmp_path).pairs_found
    words = str(told.value)
    assert "not stated" in words or "licence" in words
    assert f"data={name}" not in words.split("expected")[1]
    with pytest.raises(UserError, match=r"needs data\.root=FOLDER"):
        _ = build(compose_config([f"data={name}"]).data).pairs_found
