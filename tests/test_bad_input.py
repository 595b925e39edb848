"""A user's mistake gets one clear sentence and a status, never a traceback, and nothing already saved is lost."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reflectzoo
from reflectzoo.config import build, compose_config
from reflectzoo.errors import UserError
from tests.conftest import TINY, Run
from tests.data import layouts

Train = Callable[..., Run]

QUICK = ("loss=pixel", *TINY, "trainer=fast", "trainer.accelerator=cpu", "test=false")


def refused(run: Run, *words: str, status: int = 2) -> None:
    """One sentence with these words, and no traceback."""
    assert run.status == status, run.err
    assert "Traceback" not in run.err
    told = [line for line in run.err.splitlines() if line.startswith("reflectzoo: ")]
    assert len(told) == 1, run.err
    for word in words:
        assert word in told[0], told[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=ytmt_uctx"], ["no model=ytmt_uctx", "did you mean ytmt_uct"]),
        (["modle=ytmt_uct"], ["'modle'", "did you mean model"]),
        (["model=ytmt_ucs", "data=sampel"], ["no data=sampel", "did you mean sample", "voc"]),
        (["model=ytmt_ucs", "logger=wnadb"], ["did you mean wandb"]),
        (["model=ytmt_ucs", "trainer.max_epoch=3"], ["'trainer.max_epoch'", "did you mean trainer.max_epochs"]),
        (["model=ytmt_ucs", "model.net.widht=3"], ["'model.net.widht'", "model.net.width"]),
        (["model=ytmt_ucs", "~loss.terms.perceptaul"], ["'loss.terms.perceptaul'", "loss.terms.perceptual"]),
        (["model=ytmt_ucs", "optimizer.lr=["], ["'optimizer.lr=['", "key=value"]),
        (["model=ytmt_ucs", "trainer.max_epochs"], ["'trainer.max_epochs'", "key=value"]),
        (["model=ytmt_ucs", "model.net.pattern=Q"], ["pattern", "Q"]),
        (["model=ytmt_ucs", "trainer.precision=17"], ["precision", "17"]),
        (["model=ytmt_ucs", "model.net.width=wide"], ["width"]),
        (["model=ytmt_ucs", "model.vgg=/no/such/file.pth"], ["/no/such/file.pth"]),
        (["model=ytmt_ucs", "ckpt_path=/no/such.ckpt"], ["ckpt_path=/no/such.ckpt", "does not exist"]),
        (["model=ytmt_ucs", "ckpt_path=last"], ["ckpt_path=last", "no earlier run"]),
        (["model=ytmt_ucs", "logger=wandb", "logger.wandb.mode=offlin"], ["offlin", "online, offline"]),
        (["model=ytmt_ucs", "data=voc", "data.root=/no/such/folder"], ["/no/such/folder", "data.root"]),
    ],
    ids=lambda value: " ".join(value) if (value and "=" in value[0]) or value[0][0] == "~" else "",
)
def test_wrong_words(train: Train, overrides: list[str], words: list[str]) -> None:
    run = train(*(o for o in TINY if "width" not in o and "vgg" not in o), *overrides, folder=None)
    refused(run, *words)


def test_python_api_says_the_same(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean ytmt_uct"):
        reflectzoo.create_model("ytmt_uctt")
    with pytest.raises(UserError, match=r"model\.net\.width"):
        reflectzoo.create_model("ytmt_ucs", "model.net.widht=8")
    with pytest.raises(UserError, match="does not exist"):
        reflectzoo.load_model(tmp_path / "none.ckpt")
    other = tmp_path / "other.ckpt"
    torch.save({"weights": torch.zeros(1)}, other)
    with pytest.raises(UserError, match="was not written by"):
        reflectzoo.load_model(other)
    other.write_bytes(b"not a checkpoint at all")
    with pytest.raises(UserError, match="cannot be read"):
        reflectzoo.load_model(other)


def photographs(folder: Path, count: int = 8, size: tuple[int, int] = (60, 48)) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"photo {index}.png")
    return folder


def voc(folder: Path) -> tuple[str, ...]:
    return ("model=ytmt_pcs", "data=voc", f"data.root='{folder}'", *QUICK)


def test_empty_folder(train: Train, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    refused(train(*voc(tmp_path / "photos")), str(tmp_path / "photos"), "data.root")


def test_unreadable_and_truncated_photographs_are_skipped_or_refused(train: Train, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", count=12)
    (folder / "photo 3.png").write_bytes(b"no picture")
    whole = (folder / "photo 4.png").read_bytes()
    (folder / "photo 4.png").write_bytes(whole[: len(whole) // 2])
    skipping = train(*voc(folder), "data.on_error=skip", "trainer.limit_train_batches=null", folder="skip")
    assert skipping.status == 0, skipping.err
    told = skipping.out + skipping.err
    assert "photo 3.png" in told or "2 " in told
    refused(train(*voc(folder), "data.on_error=raise", "trainer.limit_train_batches=null", folder="raise"), "photo")


KINDS = ("L", "CMYK", "P", "RGBA", "I;16", "LA", "1")


def become(path: Path, kind: str) -> None:
    with Image.open(path) as picture:
        if kind == "I;16":
            deep = (np.asarray(picture.convert("L")).astype(np.uint16)) * 257
            Image.fromarray(deep).save(path)
        elif kind == "CMYK":
            picture.convert("CMYK").save(path.with_suffix(".jpg"))
            path.unlink()
        else:
            picture.convert(kind).save(path)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind_are_blended(tmp_path: Path, kind: str) -> None:
    folder = photographs(tmp_path / "photos", count=6)
    for path in sorted(folder.iterdir()):
        become(path, kind)
    data = build(compose_config(voc(folder)).data)
    data.setup("fit")
    for loader in (data.train_dataloader(), *data.val_dataloader()):
        for raw in loader:
            batch = data.complete_batch(data.on_before_batch_transfer(raw, 0))
            assert batch["mixture"].shape[1] == 3
            assert batch["mixture"].std() > 0.01


def test_pictures_of_every_kind_train_together(train: Train, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", count=2 * len(KINDS))
    for path, kind in zip(sorted(folder.iterdir()), KINDS * 2, strict=True):
        become(path, kind)
    run = train(*voc(folder), "trainer.limit_train_batches=null", "data.samples_per_epoch=8")
    assert run.status == 0, run.err


def test_photographs_smaller_than_the_crop_are_enlarged(train: Train, tmp_path: Path) -> None:
    run = train(*voc(photographs(tmp_path / "photos", count=6, size=(20, 9))))
    assert run.status == 0, run.err


def test_output_folder_that_cannot_be_made(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    refused(train("model=ytmt_pcs", *QUICK, "paths.output_dir=file", folder=None), "Cannot write", status=1)


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Files cannot grow beyond ``size`` bytes, which is how a full disk looks from inside."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_keeps_what_was_saved(train: Train) -> None:
    common = ("model=ytmt_pcs", *QUICK, "trainer.max_epochs=1")
    good = train(*common)
    path = good.folder / "checkpoints/last.ckpt"
    saved = path.read_bytes()
    with files_up_to(20_000):
        run = train(*common, "trainer.max_epochs=2", f"ckpt_path={path}")
    assert run.folder == good.folder
    refused(run, "Cannot write", status=1)
    assert path.read_bytes() == saved


def test_checkpoint_of_another_model(train: Train, tmp_path: Path) -> None:
    run = train("model=ytmt_pcs", *QUICK, folder="first")
    path = run.folder / "checkpoints/last.ckpt"
    saved = path.read_bytes()
    refused(train("model=ytmt_pas", *QUICK, f"ckpt_path={path}"), "made by model=ytmt_pcs", "model=ytmt_pas")
    refused(train("model=ytmt_pcs", *QUICK, "model.net.width=16", f"ckpt_path={path}"), "weights differ", "net.")
    refused(
        train("model=ytmt_uct", *QUICK, "model.net.hypercolumn=false", f"model.stage1_ckpt={path}"),
        "a different network",
        "model=ytmt_uct",
    )
    shutil.copy(path, tmp_path / "half.ckpt")
    with (tmp_path / "half.ckpt").open("r+b") as file:
        file.truncate(len(saved) // 2)
    refused(train("model=ytmt_pcs", *QUICK, f"ckpt_path={tmp_path / 'half.ckpt'}"), "half.ckpt", "cannot be read")
    assert path.read_bytes() == saved


def test_pairs_that_cannot_be_compared_do_not_choose_a_checkpoint(train: Train, tmp_path: Path) -> None:
    layouts.layered(tmp_path / "unaligned", [str(number) for number in range(6)])
    quick = [override for override in QUICK if "eval_crop" not in override]
    data = ("data=unaligned", f"data.root={tmp_path / 'unaligned'}", "data.crop=16")
    refused(train("model=ytmt_ucs", *quick, *data), "ground-truth transmission", "~callbacks.best")
    assert train("model=ytmt_ucs", *quick, *data, "~callbacks.best").status == 0
