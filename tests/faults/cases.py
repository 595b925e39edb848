"""Each fault: done to a real command, and what must hold afterwards."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reflectzoo.weights.read import resumable
from tests.conftest import TINY, TINY_GAN
from tests.faults.children import Child, Ended

_COMMON = (*TINY, "data.samples_per_epoch=8", "test=false", "logger=csv", "callbacks.panels=null", "data.num_workers=0")
TRAININGS: dict[str, tuple[str, ...]] = {
    "averaged": ("model=ytmt_pcs", "loss=pixel", *_COMMON, "callbacks=ema"),
    "two phases": (
        *("model=ytmt_uat", "model.net.hypercolumn=false", "~loss.terms.perceptual", "model.stage1_epochs=1"),
        *(*_COMMON, *TINY_GAN),
    ),
}


class Wrong(Exception):
    """Something that must hold does not."""


@dataclass
class Place:
    """Where one fault is tried.

    Attributes:
        folder: empty at the beginning.
        dice: every random choice comes from it.
        training: a key of :data:`TRAININGS`.
        told: what the commands wrote, for a failure's report.
    """

    folder: Path
    dice: random.Random
    training: str = "averaged"
    told: list[str] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        """Of the training."""
        return self.folder / "run/checkpoints"

    def start(self, *words: str, prepare: Callable[[], None] | None = None, **environment: str) -> Child:
        """Begin the training, or go on with it if there is something to go on with."""
        there = (self.checkpoints / "last.ckpt").exists() or (self.checkpoints / "last.previous.ckpt").exists()
        resume = ["ckpt_path=last"] if there else []
        overrides = [*TRAININGS[self.training], "hydra.run.dir=run", *resume, *words]
        return Child("train", overrides, self.folder, prepare, environment)

    def end(self, child: Child, *statuses: int, seconds: float = 600) -> Ended:
        """Wait for its end and check how it came about.

        Raises:
            Wrong: if it ended with another status, with a traceback, or not at all.
        """
        ended = child.result(seconds)
        self.told.append(f"--- status {ended.status}\n{ended.told}")
        if ended.status not in statuses:
            raise Wrong(f"status {ended.status} instead of {' or '.join(map(str, statuses))}")
        if "Traceback" in ended.told:
            raise Wrong("a traceback")
        if ended.status > 0 and ended.told.count("\nreflectzoo: ") + ended.told.startswith("reflectzoo: ") != 1:
            raise Wrong("not one sentence")
        return ended

    def check_saved(self, before: bool) -> bool:
        """Whether there is a whole checkpoint to go on from.

        Args:
            before: whether there was one before the fault.

        Raises:
            Wrong: if there was one and it is gone.
        """
        path, damage = resumable(self.checkpoints) if self.checkpoints.is_dir() else (None, "")
        if path is None and (before or damage):
            raise Wrong(f"no whole checkpoint is left ({damage or 'it is gone'})")
        return path is not None

    def check_result(self) -> None:
        """Compare the finished training with one that nothing happened to.

        Raises:
            Wrong: if a bit differs, or something is left behind.
        """
        expected, found = reference(self.training)[0], final(self.checkpoints)
        for key in expected:
            if not _same(expected[key], found[key]):
                raise Wrong(f"another training: {key} differs")
        left = [path.name for path in self.folder.rglob(".*.part*")]
        if left:
            raise Wrong(f"left behind: {left}")


def final(checkpoints: Path) -> dict[str, Any]:
    """What a training came to."""
    kept = {}
    for name in ("last", "best"):
        content = torch.load(checkpoints / f"{name}.ckpt", weights_only=True)
        for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            kept[f"{name} {key}"] = content.get(key)
        kept[f"{name} step"] = content["epoch"], content["global_step"]
    return kept


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@cache
def reference(training: str) -> tuple[dict[str, Any], float]:
    """The training that nothing happens to, and how many seconds it takes.

    Raises:
        Wrong: if even that fails.
    """
    with tempfile.TemporaryDirectory(prefix="reflectzoo-faults-") as folder:
        place = Place(Path(folder), random.Random(0), training)
        ended = place.end(place.start(), 0)
        return final(place.checkpoints), ended.seconds


# -- the faults --------------------------------------------------------------------------------------------------------


def _signalled(place: Place, number: int, times: int) -> None:
    """Signals at random moments, going on in between; after the last one it may finish."""
    seconds = reference(place.training)[1]
    for _ in range(times):
        before = place.check_saved(False)
        child = place.start()
        if not child.ended(place.dice.uniform(0, 1.1 * seconds)):
            child.send(number)
        ended = child.result()
        place.told.append(f"--- status {ended.status}\n{ended.told}")
        if ended.status not in (0, -number, 130):
            raise Wrong(f"status {ended.status} after signal {number}")
        # A process that is only just starting has nothing but the interpreter to answer for it.
        if ended.status == 130 and "Traceback" in ended.told:
            raise Wrong("a traceback after a signal")
        place.check_saved(before)
    place.end(place.start(), 0)
    place.check_result()


def killed(place: Place) -> None:
    """SIGKILL at random moments."""
    _signalled(place, signal.SIGKILL, 2)


def interrupted(place: Place) -> None:
    """Ctrl-C at random moments."""
    _signalled(place, signal.SIGINT, 2)


def terminated(place: Place) -> None:
    """SIGTERM at random moments, as batch systems send it."""
    _signalled(place, signal.SIGTERM, 2)


def _die_in_write(number: int, after: int) -> Callable[[], None]:
    """A trap: die within the ``number``-th checkpoint, once so many of its bytes are written."""

    def prepare() -> None:
        from reflectzoo.training import saving

        written = saving._Sink.write
        began = saving._Sink.__init__
        count = {"files": 0, "bytes": 0}

        def begin(self: Any, file: Any) -> None:
            began(self, file)
            count.update(files=count["files"] + 1, bytes=0)

        def write(self: Any, data: Any) -> int:
            result = written(self, data)
            count["bytes"] += len(data)
            if count["files"] == number and count["bytes"] >= after:
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        saving._Sink.__init__ = begin  # type: ignore[method-assign]
        saving._Sink.write = write  # type: ignore[method-assign]

    return prepare


def killed_in_a_write(place: Place) -> None:
    """SIGKILL in the middle of writing a checkpoint."""
    for _ in range(2):
        before = place.check_saved(False)
        trap = _die_in_write(place.dice.randint(1, 4), place.dice.randint(0, 40_000))
        place.end(place.start(prepare=trap), 0, -signal.SIGKILL)
        place.check_saved(before)
    place.end(place.start(), 0)
    place.check_result()


def _die_in_call(name: str, number: int) -> Callable[[], None]:
    """A trap: die before the ``number``-th call of a function of ``os``."""

    def prepare() -> None:
        plain = getattr(os, name)
        calls = {"made": 0}

        def call(*arguments: Any, **more: Any) -> Any:
            calls["made"] += "ckpt" in str(arguments[0])
            if calls["made"] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments, **more)

        setattr(os, name, call)

    return prepare


def killed_in_a_rename(place: Place) -> None:
    """SIGKILL between writing a checkpoint and giving it its name, at each step of that."""
    for _ in range(2):
        before = place.check_saved(False)
        trap = _die_in_call(place.dice.choice(["replace", "link"]), place.dice.randint(1, 5))
        place.end(place.start(prepare=trap), 0, -signal.SIGKILL)
        place.check_saved(before)
    place.end(place.start(), 0)
    place.check_result()


def disk_full(place: Place) -> None:
    """No file may grow beyond a part of a checkpoint's size."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    if place.dice.random() < 0.7:
        trap = _die_in_write(3, 0)  # so that there is something to lose
        place.end(place.start(prepare=trap), -signal.SIGKILL)
    before = place.check_saved(False)
    ended = place.end(place.start(prepare=limit), 1)
    if "Cannot write" not in ended.told or ".ckpt" not in ended.told.split("Cannot write")[1][:300]:
        raise Wrong("the sentence does not name the checkpoint")
    place.check_saved(before)
    place.end(place.start(), 0)
    place.check_result()


def other_file_system(place: Place) -> None:
    """Temporary files elsewhere than the results, and SIGKILL within a write; nothing may stay there."""
    with tempfile.TemporaryDirectory(prefix="reflectzoo-faults-", dir="/dev/shm") as elsewhere:
        trap = _die_in_write(place.dice.randint(1, 4), place.dice.randint(0, 40_000))
        place.end(place.start(prepare=trap, TMPDIR=elsewhere), -signal.SIGKILL)
        place.check_saved(False)
        place.end(place.start(TMPDIR=elsewhere), 0)
        large = [path.name for path in Path(elsewhere).rglob("*") if path.is_file() and path.stat().st_size > 10_000]
        if large:
            raise Wrong(f"left in TMPDIR: {large}")
    place.check_result()


def dead_worker(place: Place) -> None:
    """A process that reads photographs is killed."""
    child = place.start("data.num_workers=1", "data.samples_per_epoch=400")
    while not child.children():
        if child.ended(0.02):
            raise Wrong("no worker was started")
    time.sleep(place.dice.uniform(0, 0.3))
    for worker in child.children():
        os.kill(worker, signal.SIGKILL)
    ended = place.end(child, 1)
    if "reads photographs was killed" not in ended.told:
        raise Wrong("another sentence")
    shutil.rmtree(place.folder / "run")
    place.end(place.start(), 0)
    place.check_result()


def vanished_photograph(place: Place) -> None:
    """Photographs are removed while they are trained on."""
    photos = place.folder / "photos"
    photos.mkdir()
    for index in range(12):
        values = np.random.default_rng(index).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(values).resize((60, 48)).save(photos / f"{index}.png")
    child = place.start("data=voc", f"data.root={photos}", "data.cache_mb=0", "data.samples_per_epoch=40")
    while not (place.folder / "run/config.yaml").exists():
        if child.ended(0.02):
            break
    for path in place.dice.sample(sorted(photos.iterdir()), place.dice.choice([1, 12])):
        path.unlink()
    ended = place.end(child, 0, 2)
    if ended.status == 2 and ".png" not in ended.told and "photos" not in ended.told:
        raise Wrong("the sentence names no photograph")


def damaged_checkpoint(place: Place) -> None:
    """The last checkpoint is cut, emptied or changed in one bit after the process died."""
    place.end(place.start(prepare=_die_in_write(place.dice.randint(3, 5), 1)), 0, -signal.SIGKILL)
    last = place.checkpoints / "last.ckpt"
    had_two = (place.checkpoints / "last.previous.ckpt").exists()
    content = bytearray(last.read_bytes())
    how = place.dice.choice(["cut", "empty", "bit"])
    if how == "bit":
        content[place.dice.randrange(len(content) // 10, len(content) * 6 // 10)] ^= 1 << place.dice.randrange(8)
    last.write_bytes(content if how == "bit" else content[: len(content) // 2] if how == "cut" else b"")
    whole = resumable(place.checkpoints)[1] == ""
    ended = place.end(place.start(), 0 if had_two or whole else 2)
    if ended.status == 2:
        return
    if not whole and "Resuming from the previous one" not in ended.told:
        raise Wrong(f"a checkpoint with a fault ({how}) was passed over in silence")
    place.check_result()


def removal_killed(place: Place) -> None:
    """SIGKILL while a folder of photographs is worked on; the rest follows, nothing is half written."""
    photos, out = place.folder / "photos", place.folder / "out"
    photos.mkdir()
    for index in range(6):
        values = np.random.default_rng(index).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(values).save(photos / f"{index}.png")
    words = [str(photos), "-o", str(out), "--untrained", "--model", "ytmt_pcs", "--override", "model.net.width=4"]
    child = Child("remove", words, place.folder)
    if not child.ended(place.dice.uniform(0, 3)):
        child.send(signal.SIGKILL)
    place.end(child, 0, -signal.SIGKILL)
    for path in out.glob("[!.]*"):
        with Image.open(path) as image:
            image.load()
    place.end(Child("remove", [*words, "--overwrite"], place.folder), 0)
    if len(list(out.glob("[!.]*"))) != 6:
        raise Wrong("results are missing")


FAULTS: dict[str, Callable[[Place], None]] = {
    case.__name__.replace("_", " "): case
    for case in (
        killed, interrupted, terminated, killed_in_a_write, killed_in_a_rename, disk_full, other_file_system,
        dead_worker, vanished_photograph, damaged_checkpoint, removal_killed,
    )
}  # fmt: skip
