"""A sample of each kind, by itself, in a batch, on another device and completed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor

from reflectzoo.core.batch import check_batch
from reflectzoo.data.batching import collate
from reflectzoo.data.samples import (
    BlendedSequence,
    Failed,
    JointBatch,
    Notice,
    PhotoPair,
    RealPair,
    RealSequence,
    Sample,
)
from reflectzoo.data.synthesis import ClearSynthesis
from reflectzoo.errors import UserError


def still(value: int = 51, side: int = 4) -> Tensor:
    return torch.full((3, side, side), value, dtype=torch.uint8)


def moving(value: int = 51) -> Tensor:
    return still(value).expand(3, -1, -1, -1)


def pair(number: int, **more: object) -> PhotoPair:
    about = {"name": str(number), "dataset": "voc", "seed": number, **more}
    return PhotoPair(transmission=still(), reflection=still(102), **about)  # type: ignore[arg-type]


KINDS: dict[str, Callable[[int], Sample]] = {
    "photo pair": pair,
    "real pair": lambda i: RealPair(
        name=str(i), dataset="real", seed=i, mixture=still(), transmission=still(), reflection=still(0), counts=i != 1
    ),
    "blended sequence": lambda i: BlendedSequence(
        name=str(i), dataset="s", seed=i, frame_transmissions=moving(), frame_reflections=moving(0)
    ),
    "real sequence": lambda i: RealSequence(name=str(i), dataset="s", seed=i, frames=moving(), transmission=still()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_each_kind_is_completed(kind: str) -> None:
    raw = collate([KINDS[kind](number) for number in range(3)])
    assert isinstance(raw, Sample)
    raw.draw(ClearSynthesis())
    batch = raw.complete(ClearSynthesis())
    check_batch(batch)
    assert batch["name"] == ["0", "1", "2"]
    assert batch["seed"].tolist() == [0, 1, 2]
    assert batch["transmission"].unique().tolist() == (
        [0, pytest.approx(0.2)] if kind == "real pair" else [pytest.approx(0.2)]
    )
    assert batch["has_transmission"].tolist() == [True, kind != "real pair", True]
    assert ("frames" in batch) == kind.endswith("sequence")


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_moves_to_a_device_as_a_whole(kind: str) -> None:
    raw = collate([KINDS[kind](number) for number in range(2)])
    assert isinstance(raw, Sample)
    moved = move_data_to_device(raw, torch.device("meta"))
    assert type(moved) is type(raw)
    assert moved.picture.device.type == moved.seed.device.type == "meta"
    assert raw.picture.device.type == "cpu"
    assert moved.name == ["0", "1"]


def test_samples_of_several_data_sets_are_collated_apart() -> None:
    notice = Notice("small", "a.png", "it is small")
    raw = collate([pair(0, part="a"), pair(1, part="b", notices=[notice]), pair(2, part="a")])
    assert isinstance(raw, JointBatch)
    assert {name: part.name for name, part in raw.parts.items()} == {"a": ["0", "2"], "b": ["1"]}
    assert {name: places.tolist() for name, places in raw.order.items()} == {"a": [0, 2], "b": [1]}
    assert raw.notices == [notice]


def test_one_that_failed_stands_for_the_batch_and_so_do_different_sizes() -> None:
    failed = Failed(UserError("no such picture"))
    assert collate([pair(0), failed]) is failed
    other = PhotoPair(name="1", dataset="voc", seed=1, transmission=still(side=5), reflection=still(side=5))
    for samples in ([pair(0), other], [pair(0, part="a"), KINDS["real pair"](1), other]):
        for each in samples:
            each.part = samples[0].part
        raw = collate(samples)
        assert isinstance(raw, Failed)
        assert "'0' of voc (4x4) and '1' of voc (5x5)" in str(raw.error)


def test_nothing_is_blended_without_a_synthesis() -> None:
    raw = collate([pair(0)])
    assert isinstance(raw, Sample)
    for use in (raw.draw, raw.complete):
        with pytest.raises(UserError, match="choose synthesis=<name>"):
            use(None)
