"""Commands of the zoo in processes that can be killed, forked from this one so that they start at once."""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status, or the negative number of the signal that killed it.
        told: what it wrote, both streams together.
        seconds: how long it took.
    """

    status: int
    told: str
    seconds: float


def preload() -> None:
    """Import what the commands need; the children have it then."""
    for name in ("skimage.data", "reflectzoo.train", "reflectzoo.training.run", "reflectzoo.inference.commands.remove"):
        importlib.import_module(name)


class Child:
    """One command.

    Args:
        command: ``train``, a command of ``reflectzoo``, or a script in the folder, ``NAME.py``.
        words: its arguments.
        folder: where it runs.
        prepare: called in it before it begins: limits, traps.
        environment: variables.
    """

    def __init__(
        self,
        command: str,
        words: list[str],
        folder: Path,
        prepare: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / f"{time.monotonic_ns()}.log"
        self.began = time.monotonic()
        self.status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, words, folder, self.log, prepare, environment or {})

    def ended(self, seconds: float) -> bool:
        """Wait for its end, but not longer than so many seconds."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self._end_group()
            elif time.monotonic() > until:
                return False
            else:
                time.sleep(0.005)
        return True

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.status is None:
            os.kill(self.pid, number)

    def children(self) -> list[int]:
        """The processes it has started itself."""
        try:
            return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def result(self, seconds: float = 600) -> Ended:
        """How it ended; one that does not end in time is killed, and its status is -99."""
        if not self.ended(seconds):
            self.send(signal.SIGKILL)
            self.ended(60)
            self.status = -99
        assert self.status is not None
        return Ended(self.status, self.log.read_text(errors="replace"), time.monotonic() - self.began)

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its group: data workers of a process that was killed


def _free_port() -> str:
    from torch.distributed.elastic.utils.distributed import get_free_port

    return str(get_free_port())  # type: ignore[no-untyped-call]


def started_by_torchrun(command: str, words: list[str], folder: Path, count: int = 2) -> list[Child]:
    """The processes of one command, as torchrun starts them."""
    from pytorch_lightning.utilities import rank_zero_only

    common = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    return [
        Child(
            *(command, words, folder),
            prepare=partial(setattr, rank_zero_only, "rank", rank),  # which Lightning learns when it is imported
            environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def started_by_srun(
    words: list[str], folder: Path, job: str, environment: Mapping[str, str] | None = None
) -> list[Child]:
    """The processes of one training, as srun starts them, one on each of two nodes.

    Args:
        words: overrides of the training.
        folder: where all of them run.
        job: SLURM's number of it.
        environment: further variables.
    """
    from pytorch_lightning.utilities import rank_zero_only

    slurm = {"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}
    slurm |= {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_LOCALID": "0", "MASTER_PORT": _free_port()}
    slurm |= environment or {}
    return [
        Child(
            *("train", words, folder),
            prepare=partial(setattr, rank_zero_only, "rank", rank),
            environment=slurm | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)},
        )
        for rank in range(2)
    ]


def _become(
    command: str, words: list[str], folder: Path, log: Path, prepare: Callable[[], None] | None,
    environment: Mapping[str, str],
) -> NoReturn:  # fmt: skip
    code = 70
    try:
        os.setpgid(0, 0)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        os.environ.update({"HYDRA_FULL_ERROR": "0", "REFLECTZOO_DEBUG": "0"} | dict(environment))
        tempfile.tempdir = None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if prepare is not None:
            prepare()
        if command.endswith(".py"):
            sys.argv = [f"reflectzoo.{command}", *words]
            runpy.run_path(command, run_name="__main__")
            code = 0
        else:
            from reflectzoo.__main__ import main

            code = main([command, *words])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
