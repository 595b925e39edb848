"""Several data sets as one: their proportions, their batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectzoo.core.batch import check_batch
from reflectzoo.data.datasets.base import KeyedDataset
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.modules.ceilnet import CEILNetPairs
from reflectzoo.data.modules.mixture import Mixture, MixtureData
from reflectzoo.data.modules.pairs import PlainPairs
from reflectzoo.data.modules.real_pairs import Unaligned
from reflectzoo.data.modules.sequences import Seq1K, SyntheticSequences
from reflectzoo.data.modules.voc import VOCBlending
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import PhotoPair, Sample
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.errors import UserError
from tests.data import layouts
from tests.data.conftest import Recorder, fingerprint, trainer


class Numbers(KeyedDataset):
    """Yields its own name and the number it was asked for."""

    def __init__(self, name: str, length: int) -> None:
        self.name = name
        self.length = length

    def __len__(self) -> int:
        return self.length

    def sample(self, key: SampleKey) -> Sample:
        pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
        name = f"{self.name}{key.index}"
        return PhotoPair(name=name, dataset=self.name, seed=0, transmission=pixel, reflection=pixel)


@settings(max_examples=10, deadline=None)
@given(
    ratios=st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 200),
)
def test_ratios_hold_over_an_epoch(ratios: list[float], seed: int, epoch: int) -> None:
    count = 1500
    named = {f"p{i}": ratio for i, ratio in enumerate(ratios)}
    data = Mixture({name: Numbers(name, 7) for name in named}, {0: named}, count, seed)
    drawn = [data.part_of(epoch, index) for index in range(count)]
    for name, ratio in named.items():
        share = ratio / sum(ratios)
        # Five standard deviations of a binomial count: one failure in 10^6.
        assert abs(drawn.count(name) - share * count) <= 5 * np.sqrt(share * (1 - share) * count) + 1


def test_a_part_follows_from_the_sample_alone() -> None:
    data = Mixture({"a": Numbers("a", 3), "b": Numbers("b", 3)}, {0: {"a": 0.5, "b": 0.5}}, 50, 1)
    drawn = [data.part_of(2, index) for index in range(50)]
    assert [data.part_of(2, index) for index in reversed(range(50))] == drawn[::-1]
    assert drawn != [data.part_of(3, index) for index in range(50)]
    sample = data.sample(SampleKey(2, 9, 0))
    assert (sample.name, sample.part) == (f"{drawn[9]}9", drawn[9])


def test_ratios_may_change_with_the_epochs() -> None:
    parts = {"a": Numbers("a", 3), "b": Numbers("b", 3)}
    data = Mixture(parts, {0: {"a": 1.0}, 45: {"a": 0.5, "b": 0.5}, 50: {"b": 1.0}}, 40, 1)
    assert {data.part_of(44, i) for i in range(40)} == {"a"}
    assert {data.part_of(45, i) for i in range(40)} == {"a", "b"}
    assert {data.part_of(77, i) for i in range(40)} == {"b"}


@pytest.fixture
def parts(tmp_path: Path, folder: Callable[..., Path]) -> dict[str, ReflectionDataModule | None]:
    synthetic = VOCBlending(CEILNetSynthesis(), folder(12), crop=16, eval_crop=16)
    real = PlainPairs(layouts.layered(tmp_path / "real", [f"{i}" for i in range(8)]), crop=16, val_share=0.2)
    unaligned = Unaligned(layouts.layered(tmp_path / "unaligned", [f"u{i}" for i in range(4)]), crop=16, val_share=0)
    return {"voc": synthetic, "pairs": real, "unaligned": unaligned, "gone": None}


def mixture(parts: dict[str, ReflectionDataModule | None], **kwargs) -> MixtureData:
    settings = {
        "ratios": {"voc": 0.4, "pairs": 0.3, "unaligned": 0.3},
        "validate": ["voc", "pairs"],
        "test": ["voc", "pairs"],
        "samples_per_epoch": 24,
        "batch_size": 4,
        "num_workers": 0,
        "seed": 3,
        **kwargs,
    }
    return MixtureData(parts, **settings)


def test_a_batch_of_several_parts(parts: dict[str, ReflectionDataModule | None]) -> None:
    module = mixture(parts)
    seen = set()
    for raw in module.train_dataloader():
        batch = module.complete_batch(module.on_before_batch_transfer(raw, 0))
        check_batch(batch)
        seen.update(batch["dataset"])
        for place, dataset in enumerate(batch["dataset"]):
            known = {
                key: bool(batch[key][place]) if key in batch else False
                for key in ("has_transmission", "has_reflection", "has_unaligned")
            }
            assert known == {
                "has_transmission": dataset != "unaligned",
                "has_reflection": dataset == "voc",
                "has_unaligned": dataset == "unaligned",
            }
            assert batch["mixture"][place].any()
            assert batch["transmission"][place].any() == known["has_transmission"]
            assert batch["reflection"][place].any() == known["has_reflection"]
            if "sigma" in batch["draws"]:
                assert batch["draws"]["sigma"][place].isnan() == (dataset != "voc")
    assert seen == {"voc", "pairs", "unaligned"}


def test_samples_are_those_of_the_parts_and_the_batch_changes_none(
    parts: dict[str, ReflectionDataModule | None],
) -> None:
    def samples(size: int) -> dict[str, str]:
        module = mixture(parts, batch_size=size)
        found = {}
        for raw in module.train_dataloader():
            batch = module.complete_batch(raw)
            found.update({name: fingerprint(batch["mixture"][i]) for i, name in enumerate(batch["name"])})
        return found

    one = samples(1)
    assert len(one) == 24
    assert samples(4) == one
    part = parts["pairs"]
    assert part is not None
    part.seed = 3
    data = part.train_set()
    name = next(name for name in one if name[0].isdigit())
    epoch, index = map(int, name.split("@")[1].split("."))
    raw = data[SampleKey(epoch, index, 0)]
    assert raw.name == name
    assert fingerprint(raw.mixture.float().div(255)) == one[name]


def test_every_part_brings_its_evaluation(parts: dict[str, ReflectionDataModule | None], tmp_path: Path) -> None:
    module, recorder = mixture(parts), Recorder()
    trainer(tmp_path, max_epochs=1).fit(recorder, module)
    assert module.eval_names == ["voc", "pairs"]
    assert len(recorder.seen) == 24
    assert len(recorder.validated) == 1 + 1
    assert {entry[0] for entry in recorder.validated} == {0, 1}
    recorder.validated.clear()
    recorder.test_step = recorder.validation_step  # type: ignore[method-assign]
    trainer(tmp_path).test(recorder, module, verbose=False)
    assert module.test_names == ["voc", "pairs"]


def test_a_part_that_is_only_evaluated_on(parts: dict[str, ReflectionDataModule | None], tmp_path: Path) -> None:
    parts = {**parts, "ceilnet": CEILNetPairs(layouts.ceilnet(tmp_path / "ceilnet"))}
    module = mixture(parts, ratios={"voc": 1.0, "ceilnet": 0.0}, test=["ceilnet"])
    module.setup()
    assert module.test_names == ["ceilnet", "real45"]
    assert set(module.train_set().parts) == {"voc"}
    for loader in module.test_dataloader():
        check_batch(module.complete_batch(next(iter(loader))))


def test_the_length_of_an_epoch(parts: dict[str, ReflectionDataModule | None]) -> None:
    assert len(mixture(parts, samples_per_epoch=4000).train_set()) == 4000
    module = mixture(parts, samples_per_epoch=None)
    data = module.train_set()
    assert len(data) == sum(len(part) for part in data.parts.values())


def test_sets_of_one_name_stay_apart(tmp_path: Path) -> None:
    roots = [layouts.layered(tmp_path / name, [f"{i}" for i in range(5)]) for name in ("a", "b")]
    both = {root.name: PlainPairs(root, crop=16) for root in roots}
    module = MixtureData(both, {"a": 1, "b": 1})
    module.setup("validate")
    assert module.eval_names == ["pairs", "b_pairs"]


def test_sequences_and_stills_in_one_batch(tmp_path: Path, folder: Callable[..., Path]) -> None:
    students = {
        "sequences": SyntheticSequences(CEILNetSynthesis(), folder(8), crop=16, reflection_step=[2, 3]),
        "seq1k": Seq1K(layouts.seq1k(tmp_path / "seq"), crop=16),
        "pairs": PlainPairs(layouts.layered(tmp_path / "real", ["a", "b", "c", "d"]), crop=16),
    }
    module = MixtureData(students, dict.fromkeys(students, 1.0), samples_per_epoch=24, batch_size=8)
    for raw in module.train_dataloader():
        batch = module.complete_batch(raw)
        check_batch(batch)
        for place, dataset in enumerate(batch["dataset"]):
            moving = dataset != "pairs"
            assert bool(batch["has_frames"][place]) == moving
            assert bool(batch["frames"][place].any()) == moving
            assert (
                int(batch["has_frame_transmission"][place].sum()) == {"sequences": 3, "seq1k": 1, "pairs": 0}[dataset]
            )
    other = SyntheticSequences(CEILNetSynthesis(), folder(8), crop=16, reflection_step=[2, 3], frames=5)
    module = MixtureData(
        {**students, "sequences": other}, dict.fromkeys(students, 1.0), samples_per_epoch=9, batch_size=9
    )
    with pytest.raises(UserError, match=r"Sequences of \d and of \d frames cannot share a batch"):
        module.complete_batch(next(iter(module.train_dataloader())))


def test_crops_of_different_sizes_are_told(parts: dict[str, ReflectionDataModule | None], tmp_path: Path) -> None:
    odd = PlainPairs(layouts.layered(tmp_path / "odd", ["a", "b", "c"]), crop=18)
    module = mixture(
        {"voc": parts["voc"], "odd": odd}, ratios={"voc": 1, "odd": 1}, batch_size=24, validate=None, test=None
    )
    with pytest.raises(UserError, match=r"different sizes cannot share a batch, here .*(16x16|18x18).*data.crop"):
        next(iter(module.train_dataloader()))


def test_whole_pictures_of_different_sizes_are_told(tmp_path: Path) -> None:
    layouts.layered(tmp_path, ["a"], (40, 30))
    layouts.layered(tmp_path, ["b"], (30, 40))
    module = PlainPairs(tmp_path, test_share=1.0, eval_batch_size=2)
    module.setup("test")
    with pytest.raises(UserError, match=r"data.eval_batch_size=1"):
        next(iter(module.test_dataloader()[0]))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"ratios": {"vco": 1}}, r"data.ratios names 'vco', but the parts are voc, pairs"),
        ({"ratios": {"voc": -1}}, r"data.ratios must be names, each with a number of at least 0, got \{'voc': -1\}"),
        ({"ratios": {"voc": float("nan")}}, r"data.ratios must be"),
        ({"ratios": {"voc": 0}}, "at least one ratio must be more than 0"),
        (
            {"later": {"x": {"voc": 1}}},
            r"data.later must be null or a mapping from a whole number of at least 1 to names",
        ),
        ({"later": {3: {"vco": 1}}}, r"data.later.3 names 'vco'"),
        ({"samples_per_epoch": 0}, r"data.samples_per_epoch must be"),
        ({"validate": ["nobody"]}, r"data.validate must be some of the parts"),
        ({"test": []}, r"data.test must be some of the parts"),
    ],
)
def test_wrong_settings(parts: dict[str, ReflectionDataModule | None], wrong: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        mixture(parts, **wrong)


def test_an_empty_mixture_is_told() -> None:
    with pytest.raises(UserError, match="at least one data set"):
        MixtureData({"voc": None}, {})


def test_the_memory_for_photographs_is_shared_out(parts: dict[str, ReflectionDataModule | None]) -> None:
    data = mixture(parts).train_set()
    data.limit_cache(900)
    assert {part.cache.max_bytes for part in data.parts.values()} == {300}  # type: ignore[attr-defined]
    assert torch.tensor([len(data.pictures())]) > 20
