"""``data=sample`` and ``data=voc``: what is held out, what is said, what a batch looks like."""

from __future__ import annotations

import hashlib
import logging
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectzoo.core.batch import check_batch
from reflectzoo.data.images import read_rgb
from reflectzoo.data.loader import usable_cores
from reflectzoo.data.modules import sample as sample_module
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.modules.photo_folder import find_splits
from reflectzoo.data.modules.sample import SamplePhotos
from reflectzoo.data.modules.voc import VOCBlending
from reflectzoo.data.samples import RealPair
from reflectzoo.data.synthesis import CEILNetSynthesis, ClearSynthesis
from reflectzoo.errors import UserError
from tests.data.conftest import Recorder, trainer, write_photo

CONF = str(Path(__file__).parents[2] / "conf")
PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "photos"


def sample(**kwargs) -> SamplePhotos:
    settings = {"crop": 48, "eval_crop": 48, "samples_per_epoch": 6, "num_workers": 0, **kwargs}
    return SamplePhotos(CEILNetSynthesis(), **settings)


def voc(root: Path | str | None, **kwargs) -> VOCBlending:
    settings = {"crop": 16, "eval_crop": 16, "num_workers": 0, **kwargs}
    return VOCBlending(CEILNetSynthesis(), root=root, **settings)


# -- sample --


def sample_files(module: SamplePhotos) -> dict[str, set[Path]]:
    module.setup()
    train = {path for scene in module.train_set().scenes for path in scene}
    held = {}
    for name, data in (("val", module.eval_sets()["sample"]), ("test", module.test_sets()["sample"])):
        held[name] = {region.path for pair in data.pairs for region in (pair.transmission, pair.reflection)}
    return {"train": train, **held}


def test_no_sample_photograph_is_on_two_sides() -> None:
    content = {
        side: {hashlib.sha256(read_rgb(path).tobytes()).hexdigest() for path in paths}
        for side, paths in sample_files(sample()).items()
    }
    assert {side: len(hashes) for side, hashes in content.items()} == {"train": 5, "val": 1, "test": 2}
    assert len(set.union(*content.values())) == 8


def test_the_stereo_pair_is_one_scene() -> None:
    scenes = [{path.stem for path in scene} for scene in sample().train_set().scenes]
    assert {"motorcycle_left", "motorcycle_right"} in scenes


def test_the_two_parts_of_a_validation_pair_do_not_overlap() -> None:
    pairs = sample().eval_sets()["sample"].pairs
    assert len(pairs) >= 2
    for pair in pairs:
        first, second = pair.transmission.box, pair.reflection.box
        assert first[2] <= second[0] or second[2] <= first[0]


def test_sample_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    module = sample()
    module.setup()
    for loader in (module.train_dataloader(), *module.val_dataloader(), *module.test_dataloader()):
        check_batch(module.complete_batch(next(iter(loader))))


def test_a_missing_wheel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_module, "ROCKET", ("skimage", "data", "racket.jpg"))
    with pytest.raises(UserError, match=r"skimage/data/racket.jpg, which comes with scikit-image"):
        sample().setup("fit")


def test_evaluation_shows_the_same_scene_at_any_size() -> None:
    small = sample(eval_crop=32).test_sets()["sample"]
    large = sample(eval_crop=64).test_sets()["sample"]
    assert [pair.name for pair in small.pairs] == [pair.name for pair in large.pairs]
    for index in range(len(small)):
        halved = torch.nn.functional.avg_pool2d(large[index].transmission.float(), 2)
        assert (halved - small[index].transmission.float()).abs().mean() < 6


# -- any module --


def test_a_fit_and_a_test_through_lightning(tmp_path: Path) -> None:
    module, recorder = sample(batch_size=2), Recorder()
    recorder.test_step = recorder.validation_step  # type: ignore[method-assign]
    running = trainer(tmp_path, max_epochs=2)
    running.fit(recorder, module)
    assert module.eval_names == ["sample"]
    assert len(recorder.seen) == 12
    assert len({name for _, name, _ in recorder.seen}) == 12
    names = [name for _, name, _, _ in recorder.validated]
    assert len(set(names)) * 2 == len(names)
    recorder.validated.clear()
    running.test(recorder, module, verbose=False)
    assert module.test_names == ["sample"]
    assert len(recorder.validated) == len({entry[1] for entry in recorder.validated}) == 6


def test_validation_may_blend_in_another_way(tmp_path: Path) -> None:
    """Training without reflections, validation and test with them: told by whether the mixture is the transmission."""
    module = SamplePhotos(
        ClearSynthesis(),
        crop=48,
        eval_crop=48,
        samples_per_epoch=2,
        num_workers=0,
        eval_synthesis=CEILNetSynthesis(),
    )
    blended: dict[str, list[bool]] = {"train": [], "val": [], "test": []}

    class Look(Recorder):
        def training_step(self, batch, batch_idx):
            blended["train"].append(bool((batch["mixture"] != batch["transmission"]).any()))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            blended["val"].append(bool((batch["mixture"] != batch["transmission"]).any()))

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            blended["test"].append(bool((batch["mixture"] != batch["transmission"]).any()))

    running = trainer(tmp_path, max_epochs=2)
    recorder = Look()
    running.fit(recorder, module)
    running.test(recorder, module, verbose=False)
    assert set(blended["train"]) == {False}
    assert set(blended["val"]) == {True}
    assert set(blended["test"]) == {True}


def test_a_complete_batch_keeps_the_contract() -> None:
    module = sample(batch_size=3)
    batch = module.complete_batch(next(iter(module.train_dataloader())))
    check_batch(batch)
    assert batch["mixture"].dtype == torch.float32
    assert batch["has_transmission"].all()
    assert set(batch["draws"]) == {"sigma", "gamma"}
    assert batch["seed"].dtype == torch.int64
    torch.testing.assert_close(batch["mixture"], (batch["transmission"] + batch["reflection"]).clamp(0, 1))
    assert batch["dataset"] == ["sample"] * 3


def test_batches_that_are_complete_or_foreign_pass_unchanged() -> None:
    module = sample()
    complete = module.complete_batch(next(iter(module.train_dataloader())))
    assert module.on_after_batch_transfer(module.on_before_batch_transfer(complete, 0), 0) is complete
    foreign = torch.zeros(2)
    assert module.on_after_batch_transfer(module.on_before_batch_transfer(foreign, 0), 0) is foreign


def test_real_mixtures_are_not_blended_again() -> None:
    module = sample()
    raw = next(iter(module.train_dataloader()))
    layers = {"transmission": raw.transmission, "reflection": raw.reflection}
    real = RealPair(
        mixture=torch.full_like(raw.transmission, 51), name=raw.name, dataset=raw.dataset, seed=raw.seed, **layers
    )
    batch = module.complete_batch(module.on_before_batch_transfer(real, 0))
    check_batch(batch)
    assert batch["mixture"].unique().tolist() == [pytest.approx(0.2)]


def test_double_precision_reaches_the_network(tmp_path: Path) -> None:
    class Double(Recorder):
        def training_step(self, batch, batch_idx):
            assert batch["mixture"].dtype == torch.float64
            return super().training_step({**batch, "mixture": batch["mixture"]}, batch_idx)

    recorder = Double()
    trainer(tmp_path, max_epochs=1, precision="64-true", limit_train_batches=1, limit_val_batches=0).fit(
        recorder, sample()
    )
    assert len(recorder.seen) == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch_size": 0}, "data.batch_size must be a whole number of at least 1, got 0"),
        ({"eval_batch_size": -1}, "data.eval_batch_size must be a whole number of at least 1"),
        ({"num_workers": -1}, "data.num_workers must be"),
        ({"num_workers": "many"}, "data.num_workers must be"),
        ({"augment": "harder"}, "data.augment must be paper or hard, got 'harder'"),
        ({"on_error": "ignore"}, "data.on_error must be skip or raise, got 'ignore'"),
        ({"crop": 0}, "data.crop must be a whole number from 1 to 16384, got 0"),
        ({"eval_crop": "big"}, "data.eval_crop must be a whole number"),
    ],
)
def test_wrong_settings(wrong: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sample(**wrong)


def test_a_batch_larger_than_an_epoch_is_told() -> None:
    with pytest.raises(UserError, match=r"One epoch has 6 samples, but one step takes 7"):
        sample(batch_size=7).train_dataloader()


def test_workers_never_exceed_the_cores() -> None:
    assert sample(num_workers=500).train_dataloader().num_workers == usable_cores()
    assert sample(num_workers="auto").train_dataloader().num_workers == 0


def test_lightnings_own_sampler_is_refused_for_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sample()
    module.trainer = trainer(tmp_path, use_distributed_sampler=True)
    monkeypatch.setattr(module, "_world_size", lambda: 2)
    with pytest.raises(UserError, match="use_distributed_sampler=False"):
        module.train_dataloader()


def test_overfitting_a_few_batches(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer(tmp_path, max_epochs=3, overfit_batches=2).fit(recorder, sample(batch_size=2))
    assert len(recorder.seen) == 12
    assert recorder.seen[:4] == recorder.seen[4:8] == recorder.seen[8:], "the same few in every epoch"


def test_data_sets_survive_the_way_to_a_spawned_worker() -> None:
    module = sample()
    module.setup()
    data = pickle.loads(pickle.dumps(module.train_set()))
    assert torch.equal(data[3].transmission, module.train_set()[3].transmission)


def test_a_module_must_say_what_it_reads() -> None:
    for stage in ("fit", "validate", "test"):
        with pytest.raises(NotImplementedError):
            ReflectionDataModule(CEILNetSynthesis()).setup(stage)


def test_configurations_build(folder: Callable[..., Path]) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        for choice in ("sample", "voc"):
            config = compose(overrides=[f"+data={choice}", "+synthesis=ceilnet", "+seed=11"])
            if choice == "voc":
                config.data.root = str(folder(8))
            module = instantiate(config.data)
            module.setup()
            assert module.seed == 11
            assert module.crop == 224
            assert module.batch_size == 1
            check_batch(module.complete_batch(next(iter(module.train_dataloader()))))


# -- voc --


def stems(paths) -> set[str]:
    return {path.stem for path in paths}


def test_a_folder_of_photographs(folder: Callable[..., Path]) -> None:
    root = folder(20)
    module = voc(root)
    module.setup()
    sizes = {name: len(paths) for name, paths in module.splits.items()}
    assert sizes == {"train": 16, "val": 2, "test": 2}
    assert len(module.train_dataloader()) == 8
    again = voc(root, seed=99)
    assert again.splits == module.splits, "held-out photographs do not depend on the seed"


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.text("abcdefghäß 0123456789_", min_size=1, max_size=8), min_size=6, max_size=60),
    shares=st.tuples(st.floats(0, 0.6), st.floats(0, 0.39)),
    most=st.integers(2, 20),
    data=st.data(),
)
def test_no_photograph_is_in_two_splits(
    tmp_path_factory: pytest.TempPathFactory,
    names: set[str],
    shares: tuple[float, float],
    most: int,
    data: st.DataObject,
) -> None:
    root = tmp_path_factory.mktemp("split")
    for name in names:
        place = root / data.draw(st.sampled_from([".", "a", "a/b"]))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.jpg").touch()
    splits = find_splits(root, shares=shares, most=most)
    everything = [path for paths in splits.values() for path in paths]
    assert len(set(everything)) == len(everything) == len(names)
    assert all(len(paths) >= 2 for paths in splits.values())
    assert max(len(splits["val"]), len(splits["test"])) <= most


def test_held_out_photographs_hardly_change_when_some_are_added(tmp_path: Path) -> None:
    for index in range(100):
        write_photo(tmp_path / f"p{index}.png", (2, 2))
    before = find_splits(tmp_path, shares=(0.1, 0.1))
    for index in range(5):
        write_photo(tmp_path / f"q{index}.png", (2, 2))
    after = find_splits(tmp_path, shares=(0.1, 0.1))
    assert len(set(before["val"]) & set(after["val"])) >= 7


def test_train_and_val_folders(folder: Callable[..., Path]) -> None:
    root = folder(6, "set/train").parent
    folder(6, "set/val")
    splits = voc(root).splits
    assert {path.parent.name for path in splits["train"]} == {"train"}
    assert {path.parent.name for path in (*splits["val"], *splits["test"])} == {"val"}
    assert not set(splits["val"]) & set(splits["test"])
    assert len(splits["val"]) == len(splits["test"]) == 3
    folder(4, "set/test")
    splits = voc(root).splits
    assert [len(splits[name]) for name in ("train", "val", "test")] == [6, 6, 4]
    assert {path.parent.name for path in splits["test"]} == {"test"}


def test_a_validation_folder_inside_or_linked_into_the_training_folder_is_not_trained_on(
    folder: Callable[..., Path],
) -> None:
    root = folder(6, "all")
    held_out = folder(4, "all/held out")
    (root / "alias.jpg").symlink_to(held_out / "photo_002.jpg")
    splits = voc(root, val_root=held_out).splits
    assert len(splits["train"]) == 6
    assert stems(splits["train"]) == {f"photo_{i:03d}" for i in range(6)}
    assert len(splits["val"]) + len(splits["test"]) == 4


@pytest.mark.parametrize("given", ["VOCdevkit", "VOCdevkit/VOC2012", "VOCdevkit/VOC2012/JPEGImages", "."])
def test_a_devkit_wherever_one_points(folder: Callable[..., Path], tmp_path: Path, given: str) -> None:
    folder(10, "top/VOCdevkit/VOC2012/JPEGImages")
    folder(3, "top/VOCdevkit/VOC2012/SegmentationClass")
    folder(3, "top/VOCdevkit/VOC2007/JPEGImages")
    splits = voc(tmp_path / "top" / given).splits
    photos = [path for paths in splits.values() for path in paths]
    assert len(photos) == 10
    assert {path.parent.parent.name for path in photos} == {"VOC2012"}


def test_the_papers_list(folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(12, "kit/VOCdevkit/VOC2012/JPEGImages").parents[2]
    listing = tmp_path / "VOC2012_224_train_png.txt"
    listing.write_text(
        "photo_000.png\nphoto_001\n\nphoto_002.jpg\r\nphoto_003.PNG\nphoto_004  1\nphoto_005 -1\n"
        "VOC2012/JPEGImages/photo_006.jpg\nphoto_000.png\nlost_1.png\nlost_2\n"
    )
    with caplog.at_level(logging.WARNING):
        splits = voc(root, list=listing).splits
    named = {f"photo_{i:03d}" for i in range(7)}
    assert set.union(*(stems(paths) for paths in splits.values())) == named
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("2 of the 9 names in ")
    assert "'lost_1.png'" in line
    assert "the other 7" in line


def test_a_list_beside_the_photographs_and_one_in_which_nothing_fits(folder: Callable[..., Path]) -> None:
    root = folder(8)
    (root / "all.txt").write_text("\n".join(f"photo_{i:03d}" for i in range(8)))
    assert sum(map(len, voc(root, list="all.txt").splits.values())) == 8
    (root / "none.txt").write_text("a.png\nb.png\n")
    with pytest.raises(UserError, match=r"None of the 2 names in data.list=.*\(the first is 'a.png'\)"):
        voc(root, list="none.txt").setup("fit")
    (root / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="None of the 0 names"):
        voc(root, list="empty.txt").setup("fit")
    with pytest.raises(UserError, match=r"data.list=lost.txt is not a file"):
        voc(root, list="lost.txt").setup("fit")


def one_file(folder: Path) -> Path:
    return write_photo(folder / "one.jpg")


def with_text(folder: Path) -> Path:
    (folder / "notes").mkdir()
    (folder / "notes" / "read me.txt").write_text("x")
    return folder


def dangling(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "gone")
    return folder / "link"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: None, "data=voc needs data.root=FOLDER"),
        (lambda folder: "???", "data=voc needs data.root=FOLDER"),
        (lambda folder: folder / "missing", "does not exist"),
        (one_file, "is a file"),
        (dangling, "is a dangling link"),
        (lambda folder: folder, "holds nothing"),
        (with_text, "holds 1 entries, but no picture"),
    ],
    ids=["none", "mandatory", "missing", "file", "link", "empty", "text"],
)
def test_a_wrong_root_is_told_in_one_sentence(tmp_path: Path, make, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        voc(make(tmp_path)).setup("fit")
    message = str(error.value)
    assert sentence in message
    assert "data.root" in message
    assert "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/" in message
    assert "\n" not in message
    assert message.endswith(".")


def test_too_few_photographs(folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="gives 5 photographs for training, validation and test, but at least 6"):
        voc(folder(5)).setup("fit")


def test_bad_photographs_in_the_held_out_part(folder: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    root = folder(12)
    splits = voc(root, val_share=0.4).splits
    assert len(splits["val"]) == 4
    splits["val"][0].write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        module = voc(root, val_share=0.4)
        module.setup("fit")
        assert len(module.val_dataloader()[0]) == 1
    assert "is empty" in caplog.text
    with pytest.raises(UserError, match="is empty"):
        voc(root, val_share=0.4, on_error="raise").setup("fit")
    for path in splits["val"][:3]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="Only 1 of the 4 photographs held out for the val split"):
        voc(root, val_share=0.4).setup("fit")


def test_shares_must_leave_something() -> None:
    with pytest.raises(UserError, match="must leave photographs for training"):
        voc("x", val_share=0.6, test_share=0.5)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photographs are not on this machine")
def test_real_photographs() -> None:
    module = voc(PHOTOS, crop=64, eval_crop=64, max_eval_pairs=2, batch_size=4)
    module.setup()
    batch = module.complete_batch(next(iter(module.train_dataloader())))
    check_batch(batch)
    assert np.isfinite(batch["mixture"].numpy()).all()
    assert batch["mixture"].std() > 0.05
