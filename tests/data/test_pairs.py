"""Real pairs: who meets whom, who is held out, at which size they are scored, what is done about bad ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reflectzoo.core.batch import Batch, check_batch
from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.pairs import PairCrops, PairFiles, hold_out, pair_folders, usable
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.data.images import find_images
from reflectzoo.data.modules.base import IN_ALL, ReflectionDataModule
from reflectzoo.data.modules.ceilnet import CEILNetPairs
from reflectzoo.data.modules.pairs import PlainPairs, RealPairs
from reflectzoo.data.modules.real_pairs import REAL20, Nature, Unaligned, ZhangReal
from reflectzoo.data.modules.sir2 import SIR2
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import NoticeKind
from reflectzoo.errors import UserError
from tests.data import layouts
from tests.data.conftest import write_photo
from tests.data.test_photos import gradient

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def first(module: ReflectionDataModule, split: str = "train") -> Batch:
    loader = {
        "train": module.train_dataloader,
        "val": lambda: module.val_dataloader()[0],
        "test": lambda: module.test_dataloader()[0],
    }[split]()
    batch = module.complete_batch(module.on_before_batch_transfer(next(iter(loader)), 0))
    check_batch(batch)
    return batch


# -- sizes --


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    shorter=st.none() | st.integers(1, 800),
    multiple=st.sampled_from([1, 4, 8, 16, 32]),
)
def test_any_picture_gets_sides_that_are_multiples(height: int, width: int, shorter: int | None, multiple: int) -> None:
    found = EvalSize(shorter=shorter, multiple=multiple).of(height, width)
    assert all(side >= multiple and side % multiple == 0 for side in found)
    if shorter is not None and multiple == 1:
        assert min(found) == shorter
        longer = max(height, width) * shorter / min(height, width)
        assert abs(max(found) - longer) <= 0.5
    if shorter is None:
        assert all(side <= max(was, multiple) for side, was in zip(found, (height, width), strict=True))


def test_the_protocols_of_the_papers() -> None:
    assert EvalSize.read({"shorter": 420}).of(930, 1152) == (420, 520)
    assert EvalSize.read({"shorter": 420, "multiple": 16}).of(930, 1152) == (416, 512)
    assert EvalSize.read({"size": [224, 288]}).of(400, 540) == (224, 288)
    assert EvalSize.read({"size": [224, 288]}).of(540, 400) == (288, 224)
    assert EvalSize.read({"longer": 100}).of(50, 200) == (25, 100)
    assert EvalSize.read(None).of(7, 5) == (7, 5)
    assert str(EvalSize.read({"shorter": 420, "multiple": 16})) == "shorter side 420, multiples of 16"
    assert str(EvalSize.read({"shorter": None})) == "as stored"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"shortest": 3}, "no 'shortest'; choose from: shorter"),
        ({"shorter": 0}, "eval_size.shorter must be null or a whole number of at least 1"),
        ({"multiple": 1.5}, "eval_size.multiple must be"),
        ({"size": 224}, "eval_size.size must be null or a list of 2"),
        ({"size": [224, 0]}, "eval_size.size must be"),
        ({"size": [2, 3], "shorter": 4}, "only one of shorter, longer and size"),
    ],
)
def test_wrong_sizes(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        EvalSize.read(wrong)


# -- pairing and splitting --


def test_layers_meet_by_name_whatever_their_suffix(tmp_path: Path) -> None:
    for path in ("blended/a b.jpg", "blended/ü.png", "blended/in/c.png", "blended/lone.png"):
        write_photo(tmp_path / path)
    for path in ("transmission_layer/a b.png", "transmission_layer/ü.PNG", "transmission_layer/in/c.jpg", "x/y.png"):
        write_photo(tmp_path / path)
    write_photo(tmp_path / "transmission_layer" / "spare.png")
    pairs, notices = pair_folders(tmp_path / "blended", tmp_path / "transmission_layer", None)
    assert [pair.name for pair in pairs] == ["a b", "in/c", "ü"]
    assert all(pair.transmission is not None and pair.transmission.stem == pair.mixture.stem for pair in pairs)
    assert {(notice.kind, Path(notice.path).stem) for notice in notices} == {("missing", "lone"), ("missing", "spare")}
    with pytest.raises(UserError, match=r"lone.png' has no transmission of the same name"):
        pair_folders(tmp_path / "blended", tmp_path / "transmission_layer", None, on_error="raise")


@settings(max_examples=80, deadline=None)
@given(names=st.sets(st.text("abcß 012", min_size=1, max_size=6), min_size=1, max_size=40), share=st.floats(0, 0.99))
def test_no_pair_is_trained_on_and_validated_on(names: set[str], share: float) -> None:
    pairs = [PairFiles(name, Path(name)) for name in sorted(names)]
    train, val = hold_out(pairs, share)
    assert {pair.name for pair in train} | {pair.name for pair in val} == names
    assert len(train) + len(val) == len(names)
    assert train
    assert bool(val) == (share > 0 and len(names) > 1)
    if val and len(names) > 5:
        assert abs(len(val) - share * len(names)) <= 1.5
    again = hold_out(list(reversed(pairs)), share)
    assert {pair.name for pair in again[1]} == {pair.name for pair in val}


def files(module: RealPairs) -> dict[str, set[Path]]:
    module.setup()
    sets = {"train": {"": module.train_set()}, "val": module.eval_sets(), "test": module.test_sets()}
    return {split: {path for data in each.values() for path in data.pictures()} for split, each in sets.items()}


def test_zhangs_pairs_in_one_folder(tmp_path: Path) -> None:
    module = ZhangReal(layouts.zhang(tmp_path), crop=16, num_workers=0)
    found = files(module)
    assert {int(path.stem) for path in found["test"]} == REAL20
    assert len(found["train"]) + len(found["val"]) == 2 * 90
    assert len(found["val"]) == 2 * 9
    assert not found["train"] & found["val"]
    assert not found["test"] & (found["train"] | found["val"])
    everything = ZhangReal(tmp_path, crop=16, num_workers=0, val_share=0)
    assert len(everything.train_set()) == 90


@pytest.mark.parametrize(
    ("module", "train", "test", "name"),
    [
        (ZhangReal, "train/real", "test/real20_420", "real20"),
        (ZhangReal, "real_train", "real20", "real20"),
        (Nature, "train/nature", "test/Nature", "nature"),
        (Nature, "train", "test", "nature"),
        (PlainPairs, "train", "test", "pairs"),
    ],
)
def test_training_and_test_in_two_folders(
    tmp_path: Path, module: type[RealPairs], train: str, test: str, name: str
) -> None:
    layouts.layered(tmp_path / train, ["3", "4", "x y", "ä"])
    layouts.layered(tmp_path / test, ["1", "3"])
    data = module(tmp_path, crop=16, num_workers=0, eval_size={"shorter": 24})
    assert {pair.name for pair in data.pairs_found.train} == {"3", "4", "x y", "ä"}
    assert list(data.test_sets()) == [name]
    batch = first(data, "test")
    assert batch["dataset"] == [name]
    assert batch["protocol"] == ["shorter side 24"]
    assert batch["source_size"].tolist() == [[40, 48]]
    assert batch["mixture"].shape == (1, 3, 24, 29)
    assert batch["has_transmission"].all()
    assert not batch["has_reflection"].any()
    assert not batch["reflection"].any()


def test_a_test_picture_linked_into_the_training_folder_is_not_trained_on(tmp_path: Path) -> None:
    layouts.layered(tmp_path / "train", ["a", "b"])
    layouts.layered(tmp_path / "test", ["c"])
    for layer in ("blended", "transmission_layer"):
        (tmp_path / "train" / layer / "alias.png").symlink_to(tmp_path / "test" / layer / "c.png")
    module = PlainPairs(tmp_path, crop=16)
    assert {pair.name for pair in module.pairs_found.train} == {"a", "b"}


def test_plain_pairs_hold_out_by_themselves(tmp_path: Path) -> None:
    layouts.layered(tmp_path, [f"n{i}" for i in range(20)], reflection=True)
    found = files(PlainPairs(tmp_path, crop=16, test_share=0.2, val_share=0.25))
    sizes = {split: len(paths) // 3 for split, paths in found.items()}
    assert sizes == {"train": 12, "val": 4, "test": 4}
    assert sum(map(len, found.values())) == 60
    assert len(set.union(*found.values())) == 60


def test_folders_with_names_of_ones_own(tmp_path: Path) -> None:
    for layer in ("syn", "t", "rblur"):
        write_photo(tmp_path / layer / "1.jpg", (40, 30))
    with pytest.raises(UserError, match=r"holds 3 entries \(rblur/, syn/, t/\), none of them pictures: expected"):
        PlainPairs(tmp_path).setup("test")
    module = PlainPairs(tmp_path, mixture="syn", transmission=["t"], reflection="rblur", test_share=1.0)
    batch = first(module, "test")
    assert batch["has_reflection"].all()
    assert batch["reflection"].any()


def test_without_validation_pairs_the_test_is_seen_and_this_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = ZhangReal(layouts.zhang(tmp_path, 12), crop=16, val_share=0)
    with caplog.at_level(logging.WARNING):
        assert list(module.eval_sets()) == ["real20"]
    assert "checkpoints are selected on the test pairs" in caplog.text


# -- crops --


def test_every_layer_gets_the_same_view(tmp_path: Path) -> None:
    for layer in ("blended", "transmission_layer", "reflection_layer"):
        (tmp_path / layer).mkdir()
        Image.fromarray(gradient(70, 50)).save(tmp_path / layer / "a.png")
    pair = PairFiles(
        "a", *(tmp_path / layer / "a.png" for layer in ("blended", "transmission_layer", "reflection_layer"))
    )
    for kind in ("paper", "hard", "square"):
        data = PairCrops([pair], PhotoAugment(24, kind, colours=False, rotate=0.5), samples_per_epoch=12)
        views = [data[i] for i in range(12)]
        for view in views:
            assert torch.equal(view.mixture, view.transmission)
            assert torch.equal(view.mixture, view.reflection)
            assert view.mixture.shape == (3, 24, 24)
        assert len({view.mixture.numpy().tobytes() for view in views}) > 8, kind


def test_turns_come_as_often_as_asked_and_in_all_three_ways() -> None:
    photo = gradient(40, 40)
    augment, plain = PhotoAugment(16, "paper", rotate=0.5), PhotoAugment(16, "paper")
    turns = []
    for seed in range(240):
        upright, view = plain(photo, seed), augment(photo, seed)
        turns.append(next(k for k in range(4) if np.array_equal(np.rot90(upright, k), view)))
    assert 0.4 < turns.count(0) / 240 < 0.6
    assert all(turns.count(k) > 20 for k in (1, 2, 3))


def test_a_square_of_seven_tenths_lies_inside_and_anywhere() -> None:
    augment = PhotoAugment(32, "square")
    places = []
    for seed in range(80):
        view = augment(gradient(100, 60), seed).astype(float)
        across = (view[:, -1, 0] - view[:, 0, 0]).mean() / 255 * 99
        assert 38 < across < 43, "42 of the 60 rows, and as many columns"
        places.append(view[:, 0, 0].mean())
    assert max(places) - min(places) > 100


def test_the_whole_picture_squeezed() -> None:
    view = PhotoAugment(32, "whole")(gradient(100, 60), 5).astype(float)
    assert view.shape == (32, 32, 3)
    assert (view[:, -1, 0] - view[:, 0, 0]).mean() / 255 * 99 > 90, "all columns, and not mirrored"
    assert np.array_equal(view, PhotoAugment(32, "whole")(gradient(100, 60), 6))


def test_layers_of_different_sizes_cannot_be_cut_together() -> None:
    with pytest.raises(ValueError, match="must be of one size"):
        PhotoAugment(8).together([gradient(20, 20), gradient(20, 21)], 0)


def test_jpeg_and_png_of_one_pair_may_be_decoded_at_different_sizes(tmp_path: Path) -> None:
    """A JPEG can come at half its size, a PNG cannot."""
    for name, layer in (("a.jpg", "blended"), ("a.png", "transmission_layer")):
        (tmp_path / layer).mkdir()
        Image.fromarray(gradient(320, 240)).save(tmp_path / layer / name, quality=95)
    pairs, _ = pair_folders(tmp_path / "blended", tmp_path / "transmission_layer", None)
    sample = PairCrops(pairs, PhotoAugment(32, "paper"))[0]
    assert (sample.mixture.float() - sample.transmission.float()).abs().mean() < 4


# -- unaligned --


def test_nothing_compares_pixels_of_unaligned_pairs(tmp_path: Path) -> None:
    layouts.layered(tmp_path / "unaligned_train250", [str(i) for i in range(10)])
    for path in find_images(tmp_path / "unaligned_train250" / "transmission_layer"):
        write_photo(path, (50, 41))
    module = Unaligned(tmp_path, crop=16, num_workers=0, batch_size=3)
    for split in ("train", "val"):
        batch = first(module, split)
        assert not batch["has_transmission"].any()
        assert not batch["transmission"].any()
        assert batch["has_unaligned"].all()
        assert batch["unaligned_transmission"].shape == batch["mixture"].shape
        assert batch["unaligned_transmission"].any()
    with pytest.raises(UserError, match="no test pairs"):
        module.test_sets()


def test_unaligned_transmissions_can_be_moved_further(tmp_path: Path) -> None:
    for layer in ("blended", "transmission_layer"):
        for name in ("a", "b"):
            (tmp_path / layer).mkdir(exist_ok=True)
            Image.fromarray(gradient(64, 64)).save(tmp_path / layer / f"{name}.png")

    def apart(shift: int) -> float:
        data = Unaligned(tmp_path, crop=32, shift=shift, samples_per_epoch=8).train_set()
        return max(
            float((s.mixture.float() - s.unaligned_transmission.float()).abs().max())
            for s in (data[i] for i in range(8))
        )

    assert apart(0) == 0
    assert 10 < apart(10) <= 10 * 255 / 63 * 2
    with pytest.raises(UserError, match=r"data.shift"):
        Unaligned(tmp_path, shift=-1)


# -- bad data --


@pytest.mark.parametrize("spoil", layouts.SPOILERS)
def test_a_bad_pair_is_left_out_with_one_line_or_stops_with_one_sentence(
    tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    layouts.layered(tmp_path, [f"photo {i} é" for i in range(10)])
    spoiler, sentence = layouts.SPOILERS[spoil]
    bad = tmp_path / "transmission_layer" / "photo 4 é.png"
    spoiler(bad)
    with caplog.at_level(logging.WARNING):
        module = PlainPairs(tmp_path, crop=16, test_share=1.0)
        module.setup("test")
        assert len(module.test_dataloader()[0]) == 9
        assert len([first(module, "test") for _ in range(1)]) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "photo 4 é" in lines[0]
    with pytest.raises(UserError, match="photo 4 é") as error:
        PlainPairs(tmp_path, crop=16, test_share=1.0, on_error="raise").setup("test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spoil", ["empty", "cut_short", "other_size"])
def test_training_goes_on_with_the_next_pair(tmp_path: Path, spoil: str) -> None:
    layouts.layered(tmp_path, [f"{i}" for i in range(4)])
    pairs, _ = pair_folders(tmp_path / "blended", tmp_path / "transmission_layer", None)
    layouts.SPOILERS[spoil][0](tmp_path / "transmission_layer" / "2.png")
    data = PairCrops(pairs, PhotoAugment(16), seed=1)
    samples = [data[SampleKey(0, i, i)] for i in range(4)]
    notices = [notice for sample in samples for notice in sample.notices]
    assert len(notices) == 1
    assert {sample.name.split("@")[0] for sample in samples} == {"0", "1", "3"}
    with pytest.raises(UserError):
        [PairCrops(pairs, PhotoAugment(16), seed=1, on_error="raise")[i] for i in range(4)]
    for name in "013":
        layouts.empty(tmp_path / "blended" / f"{name}.png")
    with pytest.raises(UserError, match="None of the 4 pairs"):
        PairCrops(pairs, PhotoAugment(16))[0]


def test_pictures_of_1x1_and_very_long_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layouts.layered(tmp_path, ["fine"])
    layouts.layered(tmp_path, ["dot"], (1, 1))
    layouts.layered(tmp_path, ["strip"], (2400, 40))
    module = PlainPairs(tmp_path, crop=16, test_share=1.0, eval_size={"longer": 600})
    with caplog.at_level(logging.WARNING):
        (data,) = module.test_sets().values()
    assert [pair.name for pair in data.pairs] == ["fine", "strip"]
    assert "dot.png' is 1x1, too small to be scored" in caplog.text
    assert data[1].mixture.shape == (3, 10, 600)
    pairs = module.pairs_found.test["pairs"]
    crops = PairCrops(pairs, PhotoAugment(16))
    samples = [crops[i] for i in range(3)]
    assert all(sample.mixture.shape == (3, 16, 16) for sample in samples)
    assert [notice.kind for sample in samples for notice in sample.notices] == ["small"]


def test_a_folder_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.layered(tmp_path, [f"{i}" for i in range(4)])
    write_photo(tmp_path / "blended" / "locked" / "9.png")
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    module = PlainPairs(tmp_path, crop=16)
    heard: list[str] = []
    module.listener = lambda notice: heard.append(notice.sentence)
    assert len(module.pairs_found.train) == 4 - len(module.pairs_found.test["pairs"])
    assert len(heard) == 1
    assert "locked' cannot be opened (Permission denied) and is skipped." in heard[0]
    with pytest.raises(UserError, match="cannot be opened"):
        PlainPairs(tmp_path, crop=16, on_error="raise").setup("fit")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"cannot be read \(permission denied\): expected"):
        PlainPairs(tmp_path, crop=16).setup("fit")


def translucent(path: Path) -> None:
    Image.new("RGBA", (48, 40), (9, 99, 199, 128)).save(path)


@pytest.mark.parametrize(
    ("spoil", "counted"),
    [
        (layouts.empty, "In all, 8 photographs could not be read."),
        (translucent, "In all, 8 pairs have a translucent picture and were skipped."),
    ],
)
def test_many_bad_pairs_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object], counted: str
) -> None:
    layouts.layered(tmp_path, [f"{i}" for i in range(12)])
    for index in range(8):
        spoil(tmp_path / "blended" / f"{index}.png")
    module = PlainPairs(tmp_path, crop=16, test_share=1.0)
    with caplog.at_level(logging.WARNING):
        module.setup("test")
        module.teardown("test")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert lines[-1] == counted


def test_each_kind_of_notice_is_counted_in_a_sentence() -> None:
    assert set(IN_ALL) == set(get_args(NoticeKind))


def test_usable_looks_only_at_headers_unless_told(tmp_path: Path) -> None:
    layouts.layered(tmp_path, ["a"])
    layouts.cut_short(tmp_path / "blended" / "a.png")
    pairs, _ = pair_folders(tmp_path / "blended", tmp_path / "transmission_layer", None)
    assert usable(pairs, "skip")[0] == pairs
    assert usable(pairs, "skip", decode=True)[0] == []


MODULES: list[type[Any]] = [ZhangReal, Nature, Unaligned, SIR2, CEILNetPairs, PlainPairs]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("given", ["none", "missing", "file", "empty", "text"])
def test_a_wrong_root_is_told_in_one_sentence(tmp_path: Path, module: type[RealPairs], given: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "read me.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    root = None if given == "none" else tmp_path / given
    with pytest.raises(UserError) as error:
        module(root).setup("test")
    message = str(error.value)
    said = {
        "none": "needs data.root=FOLDER",
        "missing": "does not exist",
        "file": "is a file",
        "empty": "holds nothing",
        "text": "read me.txt",
    }
    assert said[given] in message
    assert "expected" in message
    assert module.published.origin in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"val_share": 1.0}, r"data.val_share must be a number of at least 0 and below 1"),
        ({"rotate": 2}, r"data.rotate must be a number from 0 to 1"),
        ({"augment": "soft"}, r"data.augment must be one of paper, hard, square"),
        ({"train": "there"}, r"data.train=there is not a folder below"),
        ({"test_share": 0}, r"data.test_share must be a number above 0 and up to 1"),
    ],
)
def test_wrong_settings(tmp_path: Path, wrong: dict[str, Any], sentence: str) -> None:
    layouts.layered(tmp_path, ["a", "b", "c"])
    with pytest.raises(UserError, match=sentence):
        PlainPairs(tmp_path, **wrong).setup("fit")
