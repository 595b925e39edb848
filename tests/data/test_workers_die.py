"""Data workers that are killed, or hear what is meant for the first process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from reflectzoo.errors import LostProcess, lost_process_error
from reflectzoo.training.run import _told_in_a_sentence
from tests.data.conftest import Recorder, trainer
from tests.data.test_resume import module, root

__all__ = ["root"]


def workers() -> list[int]:
    """The children of this process."""
    own = os.getpid()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == own and fields[0] != "Z":
                found.append(int(folder.name))
    return found


class Signal(pl.Callback):
    """Sends a signal to every child in the first step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            assert workers()
            for child in workers():
                os.kill(child, self.number)


def test_a_killed_worker_is_one_sentence(root: Path, tmp_path: Path) -> None:
    running = trainer(tmp_path, max_epochs=3, callbacks=[Signal(signal.SIGKILL)])
    with (
        pytest.raises(LostProcess, match=r"reads photographs was killed.*Nothing had been saved yet"),
        _told_in_a_sentence(running),
    ):
        running.fit(Recorder(), module(root, num_workers=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_first_process(number: int, root: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    trainer(tmp_path, max_epochs=3, callbacks=[Signal(number)]).fit(recorder, module(root, num_workers=1))
    assert len(recorder.seen) == 24


@pytest.mark.parametrize(
    ("text", "processes", "told"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", 1, "reads photographs was killed"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", 2, "reads photographs was killed"),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3", 2, "One of the 2 processes died"),
        ("NCCL communicator was aborted on rank 1.", 4, "One of the 4 processes died"),
        ("Connection closed by peer", 1, None),
        ("mat1 and mat2 shapes cannot be multiplied", 2, None),
    ],
)
def test_what_pytorch_says_of_the_dead(text: str, processes: int, told: str | None) -> None:
    found = lost_process_error(text, processes)
    assert (found is None) == (told is None)
    assert told is None or told in str(found)
