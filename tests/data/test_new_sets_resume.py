"""Every kind of training set gives the same samples whatever the workers, and goes on where it was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.modules.mixture import MixtureData
from reflectzoo.data.modules.pairs import PlainPairs
from reflectzoo.data.modules.rid import RIDBlending
from reflectzoo.data.modules.sequences import Seq1K, SyntheticSequences
from reflectzoo.data.modules.voc import VOCBlending
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.synthesis import CEILNetSynthesis
from tests.data import layouts
from tests.data.conftest import Recorder, trainer, write_photo
from tests.data.test_resume import SaveAndStop, _StopError

EPOCHS = 2
SETTINGS: dict[str, Any] = {"samples_per_epoch": 7, "batch_size": 2, "seed": 5}  # three batches, one sample left out


def rid(root: Path, **kwargs: Any) -> ReflectionDataModule:
    layouts.rid(root)
    return RIDBlending(CEILNetSynthesis(), root, sizes=[[12, 20], [18, 24]], eval_size=[12, 16], **kwargs)


def pairs(root: Path, **kwargs: Any) -> ReflectionDataModule:
    return PlainPairs(layouts.layered(root, [f"{i}" for i in range(9)]), crop=16, rotate=0.5, **kwargs)


def sequences(root: Path, **kwargs: Any) -> ReflectionDataModule:
    for index in range(10):
        write_photo(root / f"{index}.jpg")
    return SyntheticSequences(CEILNetSynthesis(), root, crop=16, eval_crop=16, reflection_step=[2, 4], **kwargs)


def seq1k(root: Path, **kwargs: Any) -> ReflectionDataModule:
    return Seq1K(layouts.seq1k(root), crop=16, **kwargs)


def mixture(root: Path, **kwargs: Any) -> ReflectionDataModule:
    for index in range(10):
        write_photo(root / "photos" / f"{index}.jpg")
    parts: dict[str, ReflectionDataModule] = {
        "voc": VOCBlending(CEILNetSynthesis(), root / "photos", crop=16, eval_crop=16),
        "pairs": PlainPairs(layouts.layered(root / "real", [f"{i}" for i in range(6)]), crop=16),
    }
    return MixtureData(parts, {"voc": 0.6, "pairs": 0.4}, later={1: {"voc": 0.4, "pairs": 0.6}}, **kwargs)


MAKERS: dict[str, Callable[..., ReflectionDataModule]] = {
    each.__name__: each for each in (rid, pairs, sequences, seq1k, mixture)
}


def fit(data: ReflectionDataModule, where: Path, resume: Path | None = None, **kwargs: Any) -> Recorder:
    recorder = Recorder()
    trainer(where, max_epochs=EPOCHS, **kwargs).fit(recorder, data, ckpt_path=resume, weights_only=bool(resume) or None)
    return recorder


@pytest.mark.parametrize("kind", MAKERS)
def test_workers_change_nothing_and_an_interrupted_run_goes_on(kind: str, tmp_path: Path) -> None:
    def module(workers: int) -> ReflectionDataModule:
        return MAKERS[kind](tmp_path / "data", num_workers=workers, **SETTINGS)

    whole = fit(module(0), tmp_path)
    assert len(whole.seen) == EPOCHS * 6
    assert len(set(whole.seen)) == EPOCHS * 6, "no sample comes twice"
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(_StopError):
        fit(module(0), tmp_path, callbacks=[SaveAndStop("on_train_batch_end", 1, 0, path)])
    for workers in (1, 2):
        assert fit(module(workers), tmp_path).seen == whole.seen
    assert fit(module(1), tmp_path, resume=path).seen == whole.seen[8:]
    other = fit(MAKERS[kind](tmp_path / "data", num_workers=0, **{**SETTINGS, "seed": 6}), tmp_path)
    assert not set(other.seen) & set(whole.seen)
    assert other.validated == whole.validated, "validation does not depend on the seed"


@pytest.mark.parametrize("kind", MAKERS)
def test_memory_does_not_grow_over_ten_epochs(kind: str, tmp_path: Path) -> None:
    """The cache fills in the first epochs and then stays; nothing else is kept."""
    data = MAKERS[kind](tmp_path, num_workers=0, **{**SETTINGS, "samples_per_epoch": 24}).train_set()
    data.limit_cache(20_000)
    process = psutil.Process(os.getpid())

    def epoch(number: int) -> int:
        for index in range(len(data)):
            data[SampleKey(number, index, index)]
        return int(process.memory_info().rss)

    early = [epoch(number) for number in range(3)]
    late = [epoch(number) for number in range(3, 13)]
    assert late[-1] - early[-1] < 4 * 2**20
    caches = [each.cache for each in getattr(data, "parts", {"": data}).values()]
    assert all(0 < cache.bytes <= cache.max_bytes for cache in caches)
