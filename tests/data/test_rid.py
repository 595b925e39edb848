"""Whole pictures at two sizes, as CoRRN trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reflectzoo.core.batch import check_batch
from reflectzoo.data.datasets.resized_pairs import ResizedPairs, resized
from reflectzoo.data.modules.rid import RIDBlending
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.errors import UserError
from tests.data import layouts
from tests.data.conftest import write_photo
from tests.data.test_photos import gradient

SIZES = [[24, 40], [48, 64]]


def rid(root: Path | None, **kwargs) -> RIDBlending:
    settings = {"sizes": SIZES, "eval_size": [24, 32], "batch_size": 2, "num_workers": 0, **kwargs}
    return RIDBlending(CEILNetSynthesis(), root=root, **settings)


def test_sizes_take_turns_from_batch_to_batch(tmp_path: Path) -> None:
    module = rid(layouts.rid(tmp_path, 20), rotations=False)
    shapes = []
    for raw in module.train_dataloader():
        batch = module.complete_batch(raw)
        check_batch(batch)
        shapes.append(tuple(batch["mixture"].shape[-2:]))
    assert len(shapes) == 9
    assert shapes == [(24, 40), (48, 64)] * 4 + [(24, 40)]


def test_a_quarter_turn_is_for_a_whole_batch(tmp_path: Path) -> None:
    module = rid(layouts.rid(tmp_path), samples_per_epoch=48)
    shapes = {tuple(raw.transmission.shape[-2:]) for raw in module.train_dataloader()}
    assert shapes == {(24, 40), (40, 24), (48, 64), (64, 48)}


def test_two_processes_agree_on_the_size(tmp_path: Path) -> None:
    one = rid(layouts.rid(tmp_path), batch_size=4, samples_per_epoch=16)
    alone = [raw.transmission.shape[-2:] for raw in one.train_dataloader()]
    for rank in range(2):
        share = rid(tmp_path, batch_size=2, samples_per_epoch=16)
        share._rank, share._world_size = (lambda rank=rank: rank), (lambda: 2)  # type: ignore[method-assign]
        assert [raw.transmission.shape[-2:] for raw in share.train_dataloader()] == alone


def whole(tmp_path: Path, **kwargs) -> ResizedPairs:
    for name in ("b", "r"):
        Image.fromarray(gradient(80, 60)).save(tmp_path / f"{name}.png")
    return ResizedPairs([tmp_path / "b.png"], [tmp_path / "r.png"], sizes=[(30, 40)], samples_per_epoch=80, **kwargs)


def test_both_layers_are_turned_and_flipped_alike_in_all_ways(tmp_path: Path) -> None:
    data = whole(tmp_path, rotations=True, vertical_flip=0.5)
    ways = set()
    for index in range(80):
        sample = data[SampleKey(0, index, index)]
        assert torch.equal(sample.transmission, sample.reflection)
        ways.add(sample.transmission.numpy().tobytes())
    assert len(ways) == 8
    plain = whole(tmp_path, rotations=False, horizontal_flip=0.0)
    assert len({plain[i].transmission.numpy().tobytes() for i in range(80)}) == 1


def test_portrait_photographs_are_turned() -> None:
    view = resized(gradient(60, 90), (20, 30))
    assert view.shape == (20, 30, 3)
    rising = view.astype(float)[..., 1].mean(axis=0)
    assert rising[-1] - rising[0] > 200, "what grew downwards grows to the right"
    assert resized(np.zeros((1, 1, 3), np.uint8), (20, 30)).shape == (20, 30, 3)


def test_nothing_is_in_two_splits(tmp_path: Path) -> None:
    module = rid(layouts.rid(tmp_path, 20, 10), val_share=0.2, test_share=0.1)
    for kind, total in (("backgrounds", 20), ("reflections", 10)):
        splits = module.splits[kind]
        everything = [path for paths in splits.values() for path in paths]
        assert len(everything) == len(set(everything)) == total
        assert [len(splits[name]) for name in ("val", "test")] == [total // 5, total // 10]
    module.setup()
    for loader in (*module.val_dataloader(), *module.test_dataloader()):
        batch = module.complete_batch(next(iter(loader)))
        check_batch(batch)
        assert batch["mixture"].shape[-2:] == (24, 32)
        assert batch["protocol"] == ["24x32"]


def test_an_epoch_sees_every_background_once(tmp_path: Path) -> None:
    data = rid(layouts.rid(tmp_path, 12)).train_set()
    names = [data[SampleKey(3, i, i)].name.split("+")[0] for i in range(len(data))]
    assert len(set(names)) == len(names) == 10


def test_folders_given_one_by_one(tmp_path: Path) -> None:
    for index in range(4):
        write_photo(tmp_path / "RID photos" / f"{index}.jpg")
        write_photo(tmp_path / "kit" / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{index}.jpg")
        write_photo(tmp_path / "kit" / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{index}.png")
    module = rid(None, reflections=tmp_path / "RID photos", backgrounds=tmp_path / "kit")
    assert {path.parent.name for path in module.splits["backgrounds"]["train"]} == {"JPEGImages"}
    assert sum(map(len, module.splits["reflections"].values())) == 4


def test_bad_photographs(tmp_path: Path) -> None:
    layouts.rid(tmp_path, 12)
    module = rid(tmp_path)
    for kind in ("backgrounds", "reflections"):
        layouts.empty(module.splits[kind]["train"][1])
    data = module.train_set()
    samples = [data[SampleKey(0, i, i)] for i in range(len(data))]
    assert {Path(notice.path).name[0] for sample in samples for notice in sample.notices} == {"b", "r"}
    strict = rid(tmp_path, on_error="raise").train_set()
    with pytest.raises(UserError, match="is empty"):
        [strict[i] for i in range(len(strict))]


@pytest.mark.parametrize("given", ["none", "missing", "empty", "one"])
def test_a_wrong_root_is_told(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    write_photo(tmp_path / "one" / "reflections" / "a.jpg")
    with pytest.raises(UserError) as error:
        rid(None if given == "none" else tmp_path / given).setup("fit")
    assert "\n" not in str(error.value)
    if given != "one":
        assert "3250 photographs of reflections" in str(error.value)


@pytest.mark.parametrize("wrong", [{"sizes": [[1]]}, {"sizes": [[0, 4]]}, {"eval_size": "big"}, {"val_share": 1.0}])
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(UserError, match=r"data\."):
        rid(None, **wrong)
