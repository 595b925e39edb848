"""Child processes of a training run: reports once why one of them failed, and terminates the others.

Lightning's main process kills itself by SIGKILL when a child has failed, so that neither the reason nor a way to resume
is shown. And a process that lost another one may block until the network times out.
"""

from __future__ import annotations

import importlib
import os
import re
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
import torch
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from reflectzoo.core.ranks import FAREWELLS, ExitMessage, read_exit_message, slurm_job
from reflectzoo.errors import LostPeer, LostProcess, TrainingError, UserError, lost_process_error

_GLANCE = 0.5
_GRACE = 15.0
"""Grace period in seconds for a process that waits on a dead one to get an error from the network."""
_WAIT = 3.0
"""Grace period in seconds for the other processes to exit after this one failed."""
_HEAR = 15.0
"""The same if this process failed only because it lost another one, which may still report the cause."""


def supervise_processes(trainer: pl.Trainer, going_on: Callable[[], str]) -> None:
    """Make a multi-process trainer stop all of its processes, with one clear error, when any of them fails.

    Args:
        trainer: may use a strategy that launches subprocesses; any other is left as it is.
        going_on: returns what is saved and how to resume; called once a process is lost.
    """
    launcher = trainer.strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        trainer.strategy._launcher = SupervisedLauncher(launcher, going_on)


def translate_spawn_error(error: ProcessException, processes: int) -> Exception | None:
    """Translate the failure of a ``ddp_fork`` or ``ddp_spawn`` process.

    Args:
        error: as raised by :mod:`torch.multiprocessing`; it holds the original traceback only as text.
        processes: number of processes.

    Returns:
        A ``UserError`` or ``TrainingError``; None if the error is a bug in reflectzoo rather than a user's mistake.
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
    return lost_process_error(last, processes)


def why_not_met(error: BaseException, processes: int) -> TrainingError | None:
    """Translate the failure of processes on several nodes to find each other.

    Args:
        error: any; those of :mod:`torch.distributed` are known.
        processes: number of processes.

    Returns:
        None for any other error.
    """
    if not isinstance(error, torch.distributed.DistError):  # type: ignore[attr-defined]
        return None
    text, address, port = str(error), os.environ.get("MASTER_ADDR", "?"), os.environ.get("MASTER_PORT", "?")
    if "EADDRINUSE" in text:
        return TrainingError(
            f"The processes cannot meet, since port {port} of this machine is in use: set MASTER_PORT to a free one, "
            "the same on all nodes."
        )
    if joined := re.search(r"(\d+)/\d+ clients joined", text):
        return TrainingError(
            f"Only {joined[1]} of the {processes} processes arrived: see on the other nodes why theirs did not start."
        )
    if "trying to connect" in text:
        return TrainingError(
            f"The first process cannot be reached at {address}:{port}: see on its node whether it runs, and whether "
            "MASTER_ADDR is a name or address by which the other nodes reach that one."
        )
    return None


def requeue() -> str:
    """Ask SLURM to run this job again, in its first process; says in a sentence what came of it."""
    job = slurm_job()
    try:
        done = subprocess.run(["scontrol", "requeue", str(job)], capture_output=True, text=True, check=False)
        failure = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1] if done.returncode else ""
    except OSError as error:
        failure = f"scontrol: {error.strerror}"
    if failure:
        return f"Job {job} was not requeued ({failure}); submit it again with ckpt_path=last."
    return f"Job {job} is requeued and will resume from there."


def _killed(rank: int, processes: int, number: int) -> LostProcess:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    why = ", most likely because memory ran out" if number == signal.SIGKILL else ""
    return LostProcess(f"Process {rank} of {processes} was killed ({name}){why}.")


class SupervisedLauncher(_SubprocessScriptLauncher):
    """Launches the other ranks as Lightning does, and stops all of them with one clear error when one fails.

    Args:
        before: the launcher made by Lightning.
        going_on: returns what is saved and how to resume; called once a process is lost.
    """

    def __init__(self, before: _SubprocessScriptLauncher, going_on: Callable[[], str]) -> None:
        super().__init__(before.cluster_environment, before.num_processes, before.num_nodes)
        self._going_on = going_on
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._over = threading.Event()
        self._ended: set[int] = set()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes unless they are running already, then call ``function`` in this one.

        Raises:
            UserError: if another process failed because of a user's mistake.
            TrainingError: if another process failed for any other reason.
        """
        self._over.clear()
        # Otherwise, each process would use all cores. Lightning's own launcher does the same.
        _set_num_threads_if_needed(self.num_processes)
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
            heard = isinstance(error, LostPeer) or isinstance(
                lost_process_error(str(error), self.num_processes), LostPeer
            )
            self._end_others(_HEAR if heard else _WAIT)
            cause = self._cause(error)
            if cause is None:
                raise
            raise cause from error
        finally:
            self._over.set()

    def _cause(self, error: Exception | None) -> Exception | None:
        """The failure of another process, if it is the reason why this one cannot continue.

        Args:
            error: the exception in this process; None if it is merely waiting.
        """
        if isinstance(error, UserError | TrainingError) and not isinstance(error, LostPeer):
            return None
        told = {rank: self._told(rank) for rank in range(1, len(self.procs) + 1)}
        for rank, word in told.items():
            # A process that merely lost another one has no cause to report.
            if word is not None and not word.hearsay:
                return (UserError if word.status == 2 else TrainingError)(f"(process {rank}) {word.text}")
        for rank, process in enumerate(self.procs, 1):
            if rank not in self._ended and process.returncode is not None and process.returncode < 0:
                return _killed(rank, self.num_processes, -process.returncode)
        heard = error is None or lost_process_error(str(error), self.num_processes) is not None
        failed = next((rank for rank, process in enumerate(self.procs, 1) if process.poll() and not told[rank]), None)
        if heard and failed is not None and failed not in self._ended:
            return LostProcess(f"Process {failed} of {self.num_processes} failed, as it says above.")
        return None

    def _told(self, rank: int) -> ExitMessage | None:
        return read_exit_message(Path(self._folder.name), rank) if self._folder is not None else None

    def _end_others(self, seconds: float) -> None:
        """Give the other processes ``seconds`` to exit and report their failures, then kill those still running."""
        until = time.monotonic() + seconds
        for rank, process in enumerate(self.procs, 1):
            try:
                process.wait(max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                self._ended.add(rank)
                process.kill()
                process.wait()

    def _watch_others(self) -> None:
        """Exit the launching process if it keeps waiting for a dead one; runs in a thread of its own."""
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
        """Exit a launched process if it keeps waiting for its parent, which is gone; runs in a thread of its own."""
        while not self._over.wait(_GLANCE):
            if os.getppid() != first:
                break
        if not self._over.wait(_GRACE):
            os._exit(1)
