"""Real pairs in the layouts in which SIR² and CEILNet are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reflectzoo.data.images import read_rgb
from reflectzoo.data.modules.ceilnet import CEILNetPairs
from reflectzoo.data.modules.sir2 import SIR2, role_of
from reflectzoo.errors import UserError
from tests.data import layouts
from tests.data.conftest import write_photo
from tests.data.test_pairs import SHARED, files, first

# -- SIR2 --


def test_the_nesting_of_sir2(tmp_path: Path) -> None:
    module = SIR2(layouts.sir2(tmp_path), eval_size={"size": [24, 32]}, num_workers=0)
    sets = module.test_sets()
    assert {name: len(data) for name, data in sets.items()} == {"postcard": 8, "objects": 8, "wild": 3}
    assert [pair.name for pair in sets["wild"].pairs] == ["withgt/1", "withgt/2", "withgt/10"]
    tags = [dict(pair.tags) for pair in sets["objects"].pairs]
    assert {"subset": "objects", "scene": "2", "aperture": "32"} in tags
    assert {"subset": "objects", "scene": "1", "glass": "10"} in tags
    assert {"subset": "postcard", "scene": "b", "aperture": "13"} in [dict(p.tags) for p in sets["postcard"].pairs]
    assert {p.tags["scene"] for p in sets["wild"].pairs} == {"1", "2", "10"}
    for pair in sets["objects"].pairs:
        assert pair.transmission is not None
        assert pair.reflection is not None
        assert (pair.mixture.stem, pair.transmission.stem, pair.reflection.stem) == ("m", "g", "r")
    module.setup("test")
    batch = first(module, "test")
    assert batch["mixture"].shape == (1, 3, 24, 32)
    assert batch["has_reflection"].all()
    assert batch["tags"] == [{"subset": "postcard", "scene": "a", "aperture": "11"}]
    assert batch["protocol"] == ["24x32, portrait turned"]


def test_one_aperture_and_one_glass_of_sir2(tmp_path: Path) -> None:
    layouts.sir2(tmp_path)
    one = SIR2(tmp_path, aperture=[32], subsets=["objects", "wild"]).test_sets()
    assert {name: len(data) for name, data in one.items()} == {"objects": 2, "wild": 3}
    both = SIR2(tmp_path, aperture=["F32"], glass=[3]).test_sets()
    assert {name: len(data) for name, data in both.items()} == {"objects": 4, "postcard": 4, "wild": 3}
    with pytest.raises(UserError, match=r"none has data.aperture.*there are aperture 11, 13, 32 and glass 3\."):
        SIR2(tmp_path, aperture=[5]).test_sets()


@pytest.mark.parametrize("where", [".", "SolidObjectDataset", "up"])
def test_sir2_wherever_one_points(tmp_path: Path, where: str) -> None:
    if where == "up":
        layouts.sir2(tmp_path / "up" / "1. Solid (13 KB)")
    else:
        layouts.sir2(tmp_path)
    assert len(SIR2(tmp_path / where, subsets=["objects"]).test_sets()["objects"]) == 8


def test_flattened_sir2(tmp_path: Path) -> None:
    for name in ("PostcardDataset", "WildSceneDataset"):
        layouts.layered(tmp_path / "SIR2" / name, ["1", "2"], reflection=True)
    sets = SIR2(tmp_path / "SIR2").test_sets()
    assert {name: len(data) for name, data in sets.items()} == {"postcard": 2, "wild": 2}
    assert sets["wild"].pairs[0].tags == {"subset": "wild"}
    assert sets["wild"].pairs[0].reflection is not None


def test_several_shots_in_one_folder_and_one_that_lacks_its_truth(tmp_path: Path) -> None:
    for shot in ("1", "2"):
        for role in "mgr":
            write_photo(tmp_path / "wild" / "5" / f"{role}{shot}.png")
    write_photo(tmp_path / "wild" / "6" / "m.png")
    module = SIR2(tmp_path)
    assert [pair.name for pair in module.pairs_found.test["wild"]] == ["5/1", "5/2"]
    assert [notice.kind for notice in module.pairs_found.notices] == ["missing"]
    with pytest.raises(UserError, match=r"m.png' has no transmission \(g\) beside it"):
        SIR2(tmp_path, on_error="raise").setup("test")


@pytest.mark.parametrize(
    ("stem", "role"),
    [("m", "m"), ("G", "g"), ("a-r-12", "r"), ("rs_3_m", "m"), ("m12", "m"), ("mug", None), ("", None)],
)
def test_roles_in_names(stem: str, role: str | None) -> None:
    assert role_of(stem)[0] == role


def test_sir2_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="for evaluation only"):
        SIR2(layouts.sir2(tmp_path)).setup("fit")
    with pytest.raises(UserError, match=r"data.subsets must be a list with entries, each one of postcard, objects"):
        SIR2(tmp_path, subsets=["street"])


# -- CEILNet --


def test_triplets_and_photographs_without_truth(tmp_path: Path) -> None:
    module = CEILNetPairs(layouts.ceilnet(tmp_path), num_workers=0)
    sets = module.test_sets()
    assert {name: len(data) for name, data in sets.items()} == {"ceilnet": 6, "real45": 2}
    module.setup("test")
    batches = [module.complete_batch(next(iter(loader))) for loader in module.test_dataloader()]
    assert batches[0]["has_transmission"].all()
    assert batches[0]["has_reflection"].all()
    assert not batches[1]["has_transmission"].any()
    assert not batches[1]["transmission"].any()
    with pytest.raises(UserError, match="no pairs for training"):
        module.train_set()
    found = files(CEILNetPairs(tmp_path, test_share=0.5, val_share=0.3, crop=16))
    assert {split: len(paths) for split, paths in found.items()} == {"train": 6, "val": 3, "test": 9 + 2}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared pictures are not on this machine")
def test_the_real_copies_of_ceilnet() -> None:
    found = CEILNetPairs(SHARED / "ceilnet_synthetic").pairs_found
    assert len(found.test["ceilnet"]) == 41
    assert all(pair.reflection for pair in found.test["ceilnet"])
    assert not found.notices
    assert len(CEILNetPairs(SHARED / "ceilnet_real45").pairs_found.test["real45"]) == 45
    pair = found.test["ceilnet"][0]
    assert pair.transmission is not None
    assert pair.reflection is not None
    mixture, transmission, reflection = (read_rgb(path).astype(float) for path in pair.files)
    assert np.abs(np.clip(transmission + reflection, 0, 255) - mixture).mean() < 6, "label1 is T and label2 is R"
