"""The processes that a training starts beside its own: what one of them dies of is told once, and none is left behind.

Lightning's first process ends itself by SIGKILL when another one has failed: nobody hears why, or how to go on. And a
process that lost another one may wait for it for as long as the network has patience.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from reflectzoo.core.ranks import FAREWELLS, Farewell, farewell
from reflectzoo.errors import LostPeer, LostProcess, TrainingError, UserError, who_died

_GLANCE = 0.5
_GRACE = 15.0
"""Seconds in which a process that waits for a dead one should hear of it from the network."""
_WAIT = 3.0
"""Seconds in which the others may end by themselves when this process has failed."""
_HEAR = 15.0
"""Seconds in which the others may say what they died of, when that is all that this process knows."""


def watch(trainer: pl.Trainer, going_on: Callable[[], str]) -> None:
    """Let a trainer that starts processes end with them in a sentence.

    Args:
        trainer: which may start some.
        going_on: says, once a process is lost, what is saved and how to go on.
    """
    launcher = trainer.strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        trainer.strategy._launcher = OtherProcesses(launcher, going_on)


def why_forked_ended(error: ProcessException, processes: int) -> Exception | None:
    """What processes of ``ddp_fork`` and ``ddp_spawn`` ended for; None for what is nobody's mistake but ours.

    Args:
        error: of :mod:`torch.multiprocessing`, which knows an exception's traceback only as text.
        processes: how many there are.
    """
    if isinstance(error, ProcessExitedException):
        if error.exit_code < 0:
            return _killed(error.error_index, processes, -error.exit_code)
        return LostProcess(f"Process {error.error_index} of {processes} ended with status {error.exit_code}.")
    last = str(error).strip().splitlines()[-1]
    name, _, text = last.partition(": ")
    module, _, kind = name.rpartition(".")
    raised = getattr(importlib.import_module(module), kind, None) if module.startswith("reflectzoo.") else None
    for told in (UserError, LostPeer, LostProcess, TrainingError):
        if isinstance(raised, type) and issubclass(raised, told):
            return told(text)
    return who_died(last, processes)


def _killed(rank: int, processes: int, number: int) -> LostProcess:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    why = ", most likely because memory ran out" if number == signal.SIGKILL else ""
    return LostProcess(f"Process {rank} of {processes} was killed ({name}){why}.")


class OtherProcesses(_SubprocessScriptLauncher):
    """Starts a training's other processes as Lightning does, and ends with them in a sentence.

    Args:
        before: the launcher that Lightning made.
        going_on: says, once a process is lost, what is saved and how to go on.
    """

    def __init__(self, before: _SubprocessScriptLauncher, going_on: Callable[[], str]) -> None:
        super().__init__(before.cluster_environment, before.num_processes, before.num_nodes)
        self._going_on = going_on
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._over = threading.Event()
        self._ended: set[int] = set()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes, unless they run already, and do this one's share of the work.

        Raises:
            UserError: if another process ended for a mistake of the user's.
            TrainingError: if it ended for any other reason.
        """
        self._over.clear()
        if not self.cluster_environment.creates_processes_externally and self.num_processes > 1:
            self._folder = tempfile.TemporaryDirectory(prefix="reflectzoo-")
            os.environ[FAREWELLS] = self._folder.name
            self._call_children_scripts()
        if self.procs:
            threading.Thread(target=self._watch_others, daemon=True).start()
        elif FAREWELLS in os.environ:
            threading.Thread(target=self._watch_first, args=(os.getppid(),), daemon=True).start()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self._over.set()
            heard = isinstance(error, LostPeer) or isinstance(who_died(str(error), self.num_processes), LostPeer)
            self._end_others(_HEAR if heard else _WAIT)
            cause = self._cause(error)
            if cause is None:
                raise
            raise cause from error
        finally:
            self._over.set()

    def _cause(self, error: Exception | None) -> Exception | None:
        """What another process died of, where that is why this one cannot go on.

        Args:
            error: what happened here; None if nothing did, and this process just waits.
        """
        if isinstance(error, UserError | TrainingError) and not isinstance(error, LostPeer):
            return None
        told = {rank: self._told(rank) for rank in range(1, len(self.procs) + 1)}
        for rank, word in told.items():
            # Those who heard of another's end know no more than this one.
            if word is not None and not word.hearsay:
                return (UserError if word.status == 2 else TrainingError)(f"(process {rank}) {word.text}")
        for rank, process in enumerate(self.procs, 1):
            if rank not in self._ended and process.returncode is not None and process.returncode < 0:
                return _killed(rank, self.num_processes, -process.returncode)
        heard = error is None or who_died(str(error), self.num_processes) is not None
        failed = next((rank for rank, process in enumerate(self.procs, 1) if process.poll() and not told[rank]), None)
        if heard and failed is not None and failed not in self._ended:
            return LostProcess(f"Process {failed} of {self.num_processes} failed, as it says above.")
        return None

    def _told(self, rank: int) -> Farewell | None:
        return farewell(Path(self._folder.name), rank) if self._folder is not None else None

    def _end_others(self, seconds: float) -> None:
        """Wait a moment for the other processes, which may have something to say, and end those that still run."""
        until = time.monotonic() + seconds
        for rank, process in enumerate(self.procs, 1):
            try:
                process.wait(max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                self._ended.add(rank)
                process.kill()
                process.wait()

    def _watch_others(self) -> None:
        """In the first process, in a thread: end it if it waits for one that is dead."""
        while not self._over.wait(_GLANCE):
            if any(process.poll() for process in self.procs):
                break
        if self._over.wait(_GRACE):
            return
        self._end_others(_WAIT)
        error = self._cause(None) or LostPeer("Another process ended.")
        more = f" {self._going_on()}." if isinstance(error, LostProcess) else ""
        sys.stderr.write(f"reflectzoo: {error}{more}\n")
        sys.stderr.flush()
        os._exit(2 if isinstance(error, UserError) else 1)

    def _watch_first(self, first: int) -> None:
        """In another process, in a thread: end it if it waits for the first one, which is gone."""
        while not self._over.wait(_GLANCE):
            if os.getppid() != first:
                break
        if not self._over.wait(_GRACE):
            os._exit(1)
