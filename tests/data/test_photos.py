"""Crops, pairs and what is done about bad photographs."""

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

from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.photos import (
    FixedPair,
    FixedPairs,
    PhotoPairs,
    Region,
    fixed_pairs,
    readable,
    views_of,
)
from reflectzoo.data.images import UnreadableImage, find_images, read_rgb
from reflectzoo.data.modules.voc import VOCBlending
from reflectzoo.data.sampler import EpochSampler, EvaluationSampler, SampleKey
from reflectzoo.data.seeding import sample_seed
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.errors import UserError
from tests.data.conftest import fingerprint, write_photo


def gradient(width: int, height: int) -> np.ndarray:
    """Every pixel says where it is: red grows to the right, green downwards."""
    right, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([right, down, np.full_like(right, 128)], axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("kind", ["paper", "hard"])
@pytest.mark.parametrize("crop", [31, 64])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3000, 50), (20, 1000), (90, 100), (300, 200)])
def test_any_photograph_gives_a_full_crop(kind: str, crop: int, size: tuple[int, int]) -> None:
    augment = PhotoAugment(crop, kind)
    for seed in range(4):
        view = augment(gradient(*size), seed)
        assert view.shape == (crop, crop, 3)
        assert view.dtype == np.uint8
        assert view.flags.c_contiguous


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(40, 120), height=st.integers(40, 120))
def test_a_paper_crop_lies_inside_the_photograph_at_a_scale_of_1_to_2(seed: int, width: int, height: int) -> None:
    crop = 32
    view = PhotoAugment(crop, "paper")(gradient(width, height), seed).astype(float)
    # Seen width in source pixels, from the gradient; flips reverse its sign.
    steps = [abs(view[:, 4, 0].mean() - view[:, -5, 0].mean()) * (width - 1) / 255 / (crop - 9)]
    steps.append((view[-5, :, 1].mean() - view[4, :, 1].mean()) * (height - 1) / 255 / (crop - 9))
    shorter = min(width, height)
    for step in steps:
        assert shorter / (2 * crop) - 0.12 <= step <= shorter / crop + 0.12
    assert abs(view[..., 2] - 128).max() <= 1, "no black border"


def test_crops_follow_from_the_seed_and_not_from_what_was_cut_before() -> None:
    photo = gradient(200, 150)
    for kind in ("paper", "hard"):
        augment = PhotoAugment(48, kind)
        views = [augment(photo, seed) for seed in (1, 2, 3)]
        other = PhotoAugment(48, kind)
        for seed, view in ((3, views[2]), (1, views[0]), (2, views[1])):
            np.testing.assert_array_equal(other(photo, seed), view)
        assert not np.array_equal(views[0], views[1])


def test_choices_are_independent_of_each_other() -> None:
    """Seeded in the obvious way, every step of a chain would draw the same numbers."""
    augment = PhotoAugment(16, "hard")
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[..., 0] = gradient(64, 64)[..., 0]
    photo[..., 1] = photo[..., 2] = gradient(64, 64)[..., 1]
    outcomes = set()
    for seed in range(200):
        grey = augment(photo, seed).astype(float).sum(axis=2)
        across = np.sign(grey[:, 12:].mean() - grey[:, :4].mean())
        down = np.sign(grey[12:].mean() - grey[:4].mean())
        outcomes.add((across, down))
    assert {(1, 1), (1, -1), (-1, 1), (-1, -1)} <= outcomes


def test_paper_flips_half_and_uses_the_whole_range_of_sizes() -> None:
    augment = PhotoAugment(32, "paper")
    photo = gradient(64, 64)
    spans = []
    for seed in range(300):
        view = augment(photo, seed).astype(float)
        spans.append((view[:, -1, 0] - view[:, 0, 0]).mean())
    flipped = np.mean([span < 0 for span in spans])
    assert 0.4 < flipped < 0.6
    assert max(map(abs, spans)) > 240
    assert min(map(abs, spans)) < 140


def pairs(folder: Path, **kwargs) -> PhotoPairs:
    kwargs = {"augment": PhotoAugment(16), "seed": 3, **kwargs}
    return PhotoPairs(views_of(find_images(folder)), **kwargs)


def sides(data: PhotoPairs, epoch: int) -> list[tuple[str, str]]:
    return [tuple(data[SampleKey(epoch, i, i)].name.split("@")[0].split("+")) for i in range(len(data))]


def test_an_epoch_uses_every_photograph_once_half_of_them_as_reflections(folder: Callable[..., Path]) -> None:
    data = pairs(folder(10))
    assert len(data) == 5
    first, second = sides(data, 0), sides(data, 1)
    for epoch in (first, second):
        assert len({name for pair in epoch for name in pair}) == 10
    assert {a for a, _ in first} != {a for a, _ in second}, "photographs change sides"


def test_a_longer_epoch_has_more_rounds(folder: Callable[..., Path]) -> None:
    data = pairs(folder(7), samples_per_epoch=9)
    every = sides(data, 0)
    assert len(every) == 9
    for start in (0, 3, 6):
        assert len({name for pair in every[start : start + 3] for name in pair}) == 6
    assert len({fingerprint(data[i].transmission) for i in range(9)}) == 9


def test_two_views_of_one_scene_never_meet(folder: Callable[..., Path]) -> None:
    one, two, three, four = find_images(folder(4))
    data = PhotoPairs([(one, two), (three, four)], PhotoAugment(16), samples_per_epoch=60)
    met = {frozenset(pair) for pair in sides(data, 0)}
    assert {one.stem, two.stem} not in met
    assert {three.stem, four.stem} not in met
    assert len({name for pair in met for name in pair}) == 4, "every view gets its turn"


def test_joint_pairs_share_their_choices_and_others_do_not(tmp_path: Path) -> None:
    for index in range(2):
        Image.fromarray(gradient(60, 50)).save(tmp_path / f"{index}.png")
    same = pairs(tmp_path, joint=True, samples_per_epoch=12)
    free = pairs(tmp_path, joint=False, samples_per_epoch=12)
    assert all(torch.equal(same[i].transmission, same[i].reflection) for i in range(12))
    assert sum(torch.equal(free[i].transmission, free[i].reflection) for i in range(12)) < 2


def test_unreadable_photographs_are_replaced_and_named(folder: Callable[..., Path]) -> None:
    root = folder(8)
    clean = [pairs(root)[SampleKey(0, i, i)] for i in range(4)]
    bad = root / "photo_003.jpg"
    bad.write_bytes(b"")
    data = pairs(root)
    broken = [data[SampleKey(0, i, i)] for i in range(4)]
    changed = [i for i in range(4) if clean[i].name != broken[i].name]
    assert len(changed) == 1
    (notice,) = broken[changed[0]].notices
    assert notice.kind == "unreadable"
    assert str(bad) in notice.sentence
    for index, (before, after) in enumerate(zip(clean, broken, strict=True)):
        assert "photo_003" not in after.name
        if index not in changed:
            assert fingerprint(before.transmission) == fingerprint(after.transmission)
        first, second = after.name.split("@")[0].split("+")
        assert first != second
    again = pairs(root)[SampleKey(0, changed[0], 0)]
    assert fingerprint(again.transmission) == fingerprint(broken[changed[0]].transmission)


def test_raise_stops_at_the_first(folder: Callable[..., Path]) -> None:
    root = folder(2)
    (root / "photo_001.jpg").write_text("not a picture")
    with pytest.raises(UnreadableImage, match=r"photo_001.jpg' is not a picture"):
        pairs(root, on_error="raise")[0]


def test_nothing_readable_is_an_error_even_when_skipping(folder: Callable[..., Path]) -> None:
    root = folder(4)
    for path in root.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="None of the 2 photographs"):
        pairs(root)[0]


def test_one_photograph_is_not_enough(folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="at least two different photographs"):
        pairs(folder(1))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_arrive_as_they_were_raised(folder: Callable[..., Path], workers: int) -> None:
    root = folder(12)
    module = VOCBlending(CEILNetSynthesis(), root=root, crop=16, eval_crop=16, on_error="raise", num_workers=workers)
    module.setup("fit")
    assert module._train is not None
    bad = module.splits["train"][0]
    bad.write_bytes(b"")
    with pytest.raises(UnreadableImage) as error:
        list(module.train_dataloader())
    assert str(error.value) == f"'{bad}' is empty (0 bytes): download or copy it again."


@pytest.mark.parametrize("workers", [0, 1])
def test_notices_are_logged_once_then_counted(
    folder: Callable[..., Path], caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    root = folder(20)
    module = VOCBlending(
        CEILNetSynthesis(), root=root, crop=100, eval_crop=16, samples_per_epoch=60, num_workers=workers, batch_size=4
    )
    module.setup("fit")
    for path in module.splits["train"][:2]:
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        for batch in module.train_dataloader():
            module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
        lines = [record.getMessage() for record in caplog.records]
        assert sum("is empty (0 bytes)" in line for line in lines) == 2
        small = [line for line in lines if "is 60x48, smaller than the crop of 100" in line]
        assert len(small) == 3
        assert small[-1].endswith("(Further ones are only counted.)")
        module.teardown("fit")
    assert f"In all, {len(module.splits['train']) - 2} photographs are smaller" in caplog.text
    assert "could not be read" not in caplog.text


def test_every_odd_picture_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 256, (40, 30, 4), dtype=np.uint8), mode="CMYK").save(tmp_path / "ink.jpg")
    Image.fromarray(rng.integers(0, 256, (40, 30, 4), dtype=np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(grey, mode="L").convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("RGB", (12_000, 200), (5, 50, 90)).save(tmp_path / "strip.png")
    write_photo(tmp_path / "with space, Ünïcödé 写真.jpg")
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cut.jpg").write_bytes(write_photo(tmp_path / "y.jpg").read_bytes()[:500])
    data = pairs(tmp_path, augment=PhotoAugment(24, "hard"), samples_per_epoch=40)
    samples = [data[i] for i in range(40)]
    assert {sample.transmission.shape for sample in samples} == {(3, 24, 24)}
    used = {name for sample in samples for name in sample.name.split("@")[0].split("+")}
    assert used == {"grey", "ink", "alpha", "palette", "deep", "dot", "strip", "with space, Ünïcödé 写真", "y"}
    complaints = {Path(notice.path).name for sample in samples for notice in sample.notices if notice.kind != "small"}
    assert complaints == {"zero.jpg", "text.png", "dangling.jpg", "cut.jpg"}


def test_fixed_pairs_are_the_same_every_time_and_show_what_they_say(tmp_path: Path) -> None:
    Image.fromarray(gradient(200, 100)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    data = FixedPairs(
        [FixedPair("x", Region(path, (0.0, 0.0, 0.5, 1.0)), Region(path, (0.5, 0.0, 1.0, 1.0)))], crop=50, dataset="d"
    )
    sample = data[0]
    left, right = sample.transmission.float(), sample.reflection.float()
    assert left[0].max() < 130
    assert right[0].min() > 125
    assert left[1].max() - left[1].min() > 245, "the square spans the full height"
    again = data[SampleKey(5, 0, 7)]
    assert torch.equal(again.transmission, sample.transmission)
    assert again.seed == sample.seed


def test_a_fixed_crop_of_a_tiny_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "a.png")
    data = FixedPairs([FixedPair("x", Region(tmp_path / "a.png"), Region(tmp_path / "a.png"))], crop=8, dataset="d")
    assert data[0].transmission.flatten(1).unique(dim=1).tolist() == [[9], [8], [7]]


def test_names_of_pairs_are_unique(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) / "same.jpg" for i in range(6)]
    names = [pair.name for pair in fixed_pairs(paths)]
    assert len(set(names)) == 3


def test_readable_leaves_bad_ones_out(folder: Callable[..., Path]) -> None:
    root = folder(4)
    (root / "photo_002.jpg").write_bytes((root / "photo_002.jpg").read_bytes()[:400])
    good, notices = readable(find_images(root), "skip")
    assert [path.name for path in good] == ["photo_000.jpg", "photo_001.jpg", "photo_003.jpg"]
    assert "photo_002.jpg" in notices[0].sentence
    with pytest.raises(UnreadableImage):
        readable(find_images(root), "raise")


def test_the_cache_changes_no_sample(folder: Callable[..., Path]) -> None:
    root = folder(6)
    plain, cached = pairs(root, samples_per_epoch=20), pairs(root, samples_per_epoch=20)
    cached.limit_cache(3 * read_rgb(root / "photo_000.jpg").nbytes)
    for index in range(20):
        assert torch.equal(plain[index].transmission, cached[index].transmission)
    assert 0 < cached.cache.bytes <= cached.cache.max_bytes


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 60),
    batch=st.integers(1, 5),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
    done=st.integers(0, 4),
)
def test_samplers_share_out_exactly(length: int, batch: int, world: int, epoch: int, done: int) -> None:
    def keys(rank: int, skip: int = 0) -> list[SampleKey]:
        sampler = EpochSampler(
            length, batch, seed=4, position=lambda: (epoch, skip), rank=lambda: rank, world_size=lambda: world
        )
        assert len(sampler) == length // (batch * world) * batch
        return list(sampler)

    shares = [keys(rank) for rank in range(world)]
    alone = list(EpochSampler(length, batch * world, seed=4, position=lambda: (epoch, 0)))
    assert len({len(share) for share in shares}) == 1
    for start in range(0, len(shares[0]), batch):
        together = {key for share in shares for key in share[start : start + batch]}
        assert together == set(alone[start * world : (start + batch) * world])
    everything = [key.index for share in shares for key in share]
    assert len(set(everything)) == len(everything)
    assert keys(0, skip=done) == shares[0][done * batch :]

    counted = []
    lengths = set()
    for rank in range(world):
        sampler = EvaluationSampler(length, rank=lambda rank=rank: rank, world_size=lambda: world)
        share = list(sampler)
        assert len(share) == len(sampler)
        lengths.add(len(share))
        counted += [key.index for key in share if key.counts]
    assert sorted(counted) == list(range(length))
    assert len(lengths) == 1


def test_seeds_are_spread() -> None:
    seeds = {sample_seed(s, e, i) for s in range(4) for e in range(10) for i in range(100)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(2018, 0, 0) == 7333575965861000722, "checkpoints of older runs count on it"
