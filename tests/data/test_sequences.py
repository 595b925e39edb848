"""Sequences: windows that slide over two photographs, and shot ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reflectzoo.core.batch import Batch, check_batch
from reflectzoo.data.datasets.path_patterns import PathPattern
from reflectzoo.data.datasets.windows import Motion
from reflectzoo.data.modules.sequences import SEQ1K_ALL, SEQ1K_TRAIN, Seq1K, SyntheticSequences
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.seeding import generator
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.errors import UserError
from tests.data import layouts
from tests.data.conftest import write_photo
from tests.data.test_pairs import first
from tests.data.test_photos import gradient


def positions(frames: list[np.ndarray], width: int, height: int) -> np.ndarray:
    """Left and top of windows cut unscaled from a gradient, to a pixel."""
    corners = np.array([frame[0, 0, :2] for frame in frames], float)
    return corners * (width - 1, height - 1) / 255


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**62),
    frames=st.sampled_from([1, 3, 5, 7]),
    crop=st.integers(4, 40),
    slow=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    fast=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    extra=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_a_window_stays_inside_and_goes_one_way_at_the_asked_speed(
    seed: int, frames: int, crop: int, slow: tuple[int, int], fast: tuple[int, int], extra: tuple[int, int]
) -> None:
    steps = [(min(pair), max(pair)) for pair in (slow, fast)]
    motion = Motion(frames, crop, steps[0], steps[1])
    height, width = motion.needed + extra[0], motion.needed + extra[1]
    for grows in ((True, True), (True, False), (False, False)):
        for low, high in steps:
            path = motion.path(generator(seed), (low, high), np.array(grows), height, width)
            assert path.shape == (frames, 2)
            assert (path >= 0).all()
            assert (path + crop <= (height, width)).all()
            moved = np.diff(path, axis=0) * np.where(grows, 1, -1)
            assert ((moved >= low) & (moved <= high)).all()


def test_both_layers_move_the_same_way_and_all_directions_come_up() -> None:
    motion = Motion(3, 32, (1, 2), (10, 20))
    photo = gradient(120, 110)
    directions = set()
    for seed in range(40):
        behind, reflected = motion.windows(photo, photo, seed, flips=False)
        slow, fast = (np.diff(positions(frames, 120, 110), axis=0) for frames in (behind, reflected))
        assert (np.sign(slow) == np.sign(fast)).all()
        assert (np.abs(slow) < 3.1).all()
        assert ((np.abs(fast) > 8.9) & (np.abs(fast) < 21.1)).all()
        directions.add(tuple(np.sign(fast[0]).astype(int).tolist()))
    assert len(directions) == 4


def test_half_of_the_sequences_are_mirrored() -> None:
    motion = Motion(3, 24)
    mirrored = 0
    for seed in range(100):
        frames, _ = motion.windows(gradient(90, 90), gradient(90, 90), seed)
        rising = [frame[0, -1, 0] > frame[0, 0, 0] for frame in frames]
        assert len(set(rising)) == 1
        mirrored += not rising[0]
    assert 33 < mirrored < 67


@pytest.mark.parametrize("seed", range(12))
def test_the_true_motion_leads_from_the_centre_to_every_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    photos = [rng.integers(0, 256, (90, 100, 3), dtype=np.uint8) for _ in range(2)]
    views = Motion(3, 32, (0, 2), (10, 20)).cut(photos[0], photos[1], seed)
    for layer, frames in enumerate((views.transmissions, views.reflections)):
        assert (views.motion[layer, 1] == 0).all()
        for frame, (right, down) in zip(frames, views.motion[layer].tolist(), strict=True):
            rows = slice(max(0, -down), 32 - max(0, down))
            columns = slice(max(0, -right), 32 - max(0, right))
            there = (slice(rows.start + down, rows.stop + down), slice(columns.start + right, columns.stop + right))
            assert (frame[there] == frames[1][rows, columns]).all()


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (2400, 40), (30, 900), (700, 800)])
def test_photographs_of_any_size(size: tuple[int, int]) -> None:
    motion = Motion(3, 24, (0, 2), (3, 5))
    behind, reflected = motion.windows(gradient(*size), gradient(90, 80), 3)
    assert {frame.shape for frame in (*behind, *reflected)} == {(24, 24, 3)}


def module(root: Path | None, **kwargs) -> SyntheticSequences:
    settings = {"crop": 24, "eval_crop": 24, "reflection_step": [3, 5], "num_workers": 0, "batch_size": 2, **kwargs}
    return SyntheticSequences(CEILNetSynthesis(), root=root, **settings)


def check_frames(batch: Batch, frames: int) -> None:
    check_batch(batch)
    size, centre = len(batch["name"]), frames // 2
    assert batch["frames"].shape == (size, frames, *batch["mixture"].shape[1:])
    for layer in ("frames", "frame_transmissions", "frame_reflections"):
        assert batch[layer].shape == batch["frames"].shape
        assert batch[layer].dtype == torch.float32
    assert torch.equal(batch["mixture"], batch["frames"][:, centre])
    assert torch.equal(batch["transmission"], batch["frame_transmissions"][:, centre])
    assert torch.equal(batch["reflection"], batch["frame_reflections"][:, centre])
    assert batch["has_frame_transmission"].shape == batch["has_frame_reflection"].shape == (size, frames)
    assert batch["has_frames"].all()


@pytest.mark.parametrize("frames", [3, 5])
def test_synthetic_sequences_know_everything(folder: Callable[..., Path], frames: int) -> None:
    data = module(folder(12), frames=frames)
    for split in ("train", "val", "test"):
        batch = first(data, split)
        check_frames(batch, frames)
        assert batch["has_frame_transmission"].all()
        assert batch["has_frame_reflection"].all()
        added = batch["frame_transmissions"] + batch["frame_reflections"]
        torch.testing.assert_close(batch["frames"], added.clamp(0, 1))
        assert batch["draws"]["sigma"].shape == (len(batch["name"]),), "one draw for all frames"


def test_the_centre_frame_is_what_a_single_picture_would_be(folder: Callable[..., Path]) -> None:
    data = module(folder(12), batch_size=1)
    raw = next(iter(data.train_dataloader()))
    batch = data.complete_batch(raw)
    alone = CEILNetSynthesis()(
        raw.frame_transmissions[:, 1].float() / 255, raw.frame_reflections[:, 1].float() / 255, raw.seed
    )
    torch.testing.assert_close(batch["mixture"], alone.mixture, atol=1e-6, rtol=0)
    torch.testing.assert_close(batch["reflection"], alone.reflection, atol=1e-6, rtol=0)


def test_sequences_of_the_sample_photographs() -> None:
    data = module(None, crop=32, samples_per_epoch=4)
    data.setup()
    assert len(data.train_dataloader()) == 2
    check_frames(first(data), 3)
    assert first(data, "val")["name"] == ["rocket_left"]
    assert first(data, "test")["name"] == ["coffee"]


def test_a_bad_photograph_does_not_stop_sequences(folder: Callable[..., Path]) -> None:
    root = folder(12)
    for path in sorted(root.iterdir())[:3]:
        layouts.empty(path)
    train = module(root, val_share=0.2).train_set()
    samples = [train[SampleKey(0, i, i)] for i in range(len(train))]
    assert all(sample.frame_transmissions.shape == (3, 3, 24, 24) for sample in samples)
    assert {notice.kind for sample in samples for notice in sample.notices} == {"unreadable"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"frames": 4}, "data.frames must be an odd number of at least 1, got 4"),
        ({"transmission_step": [2, 1]}, "data.transmission_step must be a range of whole pixels"),
        ({"reflection_step": [0.5, 1]}, "data.reflection_step must be"),
        ({"val_share": 0.6, "test_share": 0.6}, "must leave photographs for training"),
    ],
)
def test_wrong_settings(wrong: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        module(None, **wrong)


# -- shot sequences --


def seq1k(root: Path | None, **kwargs) -> Seq1K:
    return Seq1K(root, **{"crop": 16, "num_workers": 0, "val_share": 0.2, **kwargs})


def test_the_truth_of_the_centre_frame_only(tmp_path: Path) -> None:
    data = seq1k(layouts.seq1k(tmp_path), batch_size=2)
    for split in ("train", "val", "test"):
        batch = first(data, split)
        check_frames(batch, 3)
        assert batch["has_transmission"].all()
        assert not batch["has_reflection"].any()
        assert batch["has_frame_transmission"].tolist() == [[False, True, False]] * len(batch["name"])
        assert not batch["has_frame_reflection"].any()
        assert not batch["frame_transmissions"][:, [0, 2]].any()


def test_every_frame_and_the_truth_get_the_same_view(tmp_path: Path) -> None:
    for name in ("1", "2", "3", "gt"):
        for sequence in ("a", "b", "c"):
            (tmp_path / sequence).mkdir(exist_ok=True)
            Image.fromarray(gradient(60, 44)).save(tmp_path / sequence / f"{name}.png")
    sample = seq1k(tmp_path).train_set()[0]
    assert all(torch.equal(frame, sample.transmission) for frame in sample.frames)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(4, 60))
def test_715_of_1015_are_for_training(tmp_path_factory: pytest.TempPathFactory, count: int) -> None:
    top = tmp_path_factory.mktemp("seq")
    for index in range(count):
        (top / f"s{index}").mkdir()
        for name in ("1", "2", "3", "T"):
            (top / f"s{index}" / f"{name}.png").touch()
    splits = seq1k(top).splits
    sizes = {split: len(each) for split, each in splits.items()}
    assert sizes["train"] + sizes["val"] == round(count * SEQ1K_TRAIN / SEQ1K_ALL)
    names = [each.name for split in splits.values() for each in split]
    assert len(names) == len(set(names)) == count
    assert all(sizes.values())
    assert round(1015 * SEQ1K_TRAIN / SEQ1K_ALL) == 715


def test_the_split_may_be_given(tmp_path: Path) -> None:
    layouts.seq1k(tmp_path / "all", 6)
    listing = tmp_path / "train.txt"
    listing.write_text("seq 000\nseq 003\r\nseq 004\n\n")
    splits = seq1k(tmp_path / "all", train_list=listing).splits
    assert {each.name for each in splits["test"]} == {"seq 001", "seq 002", "seq 005"}
    listing.write_text("seq 000\nseq 777\n")
    with pytest.raises(UserError, match=r"1 of the 2 names in data.train_list=.*the first is 'seq 777'"):
        seq1k(tmp_path / "all", train_list=listing).setup("fit")
    layouts.seq1k(tmp_path / "two" / "train", 3)
    layouts.seq1k(tmp_path / "two" / "test", 2)
    assert {split: len(each) for split, each in seq1k(tmp_path / "two").splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 2,
    }


@pytest.mark.parametrize(
    ("files", "frames", "truth"),
    [
        (["{s}/I1", "{s}/I2", "{s}/I10", "{s}/gt"], "{sequence}/I{frame}", "{sequence}/gt"),
        (["in/{s}_1", "in/{s}_2", "in/{s}_10", "truth/{s}"], "in/{sequence}_{frame}", "truth/{sequence}"),
        (
            ["{s}/blended/1", "{s}/blended/2", "{s}/blended/10", "{s}/T/2"],
            "{sequence}/blended/{frame}",
            "{sequence}/T/*",
        ),
    ],
)
def test_copies_in_other_arrangements(tmp_path: Path, files: list[str], frames: str, truth: str) -> None:
    for name in ("a", "b", "c", "d"):
        for file in files:
            write_photo(tmp_path / f"{file.format(s=name)}.jpg", (30, 24))
    data = seq1k(tmp_path, frame_pattern=frames, truth_pattern=truth)
    (sequence, *_) = data.splits["train"]
    assert [path.stem.lstrip("I").split("_")[-1] for path in sequence.frames] == ["1", "2", "10"]
    assert sum(map(len, data.splits.values())) == 4


def test_more_frames_than_needed_leave_those_around_the_centre(tmp_path: Path) -> None:
    layouts.seq1k(tmp_path, 4, frames=5)
    assert [path.stem for path in seq1k(tmp_path).splits["train"][0].frames] == ["I2", "I3", "I4"]
    assert len(seq1k(tmp_path, frames=5).splits["train"][0].frames) == 5


@pytest.mark.parametrize("pattern", ["{frame}", "{sequence}/{sequence}", "{sequence}/{number}", ""])
def test_wrong_patterns(pattern: str) -> None:
    with pytest.raises(UserError, match=r"must contain \{sequence\} once"):
        PathPattern(pattern)


def test_incomplete_and_unreadable_sequences(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layouts.seq1k(tmp_path, 10)
    (tmp_path / "seq 002" / "T.png").unlink()
    (tmp_path / "seq 003" / "I2.png").unlink()
    write_photo(tmp_path / "seq 004" / "I2.png", (12, 12))
    layouts.empty(tmp_path / "seq 005" / "I1.png")
    with caplog.at_level(logging.WARNING):
        data = seq1k(tmp_path)
        data.setup()
        good = sum(
            len(each.sequences) for each in (data.train_set(), *data.eval_sets().values(), *data.test_sets().values())
        )
    assert good == 6
    for words in ("'seq 002'", "no transmission", "2 frames where 3 are needed", "must have the same size", "is empty"):
        assert words in caplog.text
    with pytest.raises(UserError, match="seq 00"):
        seq1k(tmp_path, on_error="raise").setup()


@pytest.mark.parametrize("given", ["none", "missing", "empty", "other"])
def test_a_wrong_root_is_told(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    layouts.layered(tmp_path / "other", ["a"])
    with pytest.raises(UserError, match="expected a folder for each sequence") as error:
        seq1k(None if given == "none" else tmp_path / given).setup("fit")
    assert "1015 sequences" in str(error.value)
    assert "\n" not in str(error.value)
