"""Profilers for training."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from omegaconf import DictConfig
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from typing_extensions import override

from reflectzoo.errors import UserError

TIMED_PARTS = ("wait", "blend", "forward", "backward", "optimizer", "logging", "validation")
"""``wait``: for photographs; ``blend``: moving a batch to the device and synthesising its mixtures; ``forward``:
network and loss; ``logging``: curves, callbacks, checkpoints and Lightning's overhead."""

PROFILERS = ("parts", "simple", "advanced", "pytorch")


class PartsProfiler(Profiler):
    """Attributes each second of the training loop to exactly one of :data:`TIMED_PARTS`.

    On a GPU the device is synchronised at every change of part, so that its time is attributed to the part that caused
    it; this slows training down a little.

    Args:
        dirpath: folder of the report; None to print it only.
        filename: file name of the report, without suffix.
        warmup: number of initial steps to leave out.
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None, warmup: int = 2) -> None:
        super().__init__(dirpath=dirpath, filename=filename)
        self.seconds = dict.fromkeys(TIMED_PARTS, 0.0)
        self.steps = 0
        self._warmup = warmup
        self._stack: list[str] = []
        self._since = 0.0
        self._validating = False

    @property
    def total(self) -> float:
        """Seconds of the counted steps, without validation."""
        return sum(seconds for part, seconds in self.seconds.items() if part != "validation")

    @override
    def start(self, action_name: str) -> None:
        """Enter the part that a Lightning action belongs to."""
        if action_name.endswith(".on_after_backward") and self._stack and self._stack[-1] == "backward":
            self._leave()
        if action_name.endswith(".on_validation_start"):
            self._switch()
            self._validating = True
        self._enter(self._part(action_name))

    @override
    def stop(self, action_name: str) -> None:
        """Leave the part of a Lightning action."""
        self._leave()
        if action_name.startswith("[LightningModule]"):
            hook = action_name.rsplit(".", 1)[-1]
            if hook == "on_before_backward":
                self._enter("backward")  # until the first hook after it
            elif hook == "on_validation_end":
                self._switch()
                self._validating = False
        if action_name == "run_training_batch":
            self.steps += 1
            if self.steps == self._warmup:
                self.steps, self._warmup = 0, 0
                self.seconds = dict.fromkeys(TIMED_PARTS, 0.0)

    def _part(self, action: str) -> str:
        hook = action.rsplit(".", 1)[-1]
        if hook == "train_dataloader_next":
            return "wait"
        if hook in (
            "batch_to_device",
            "on_before_batch_transfer",
            "transfer_batch_to_device",
            "on_after_batch_transfer",
        ):
            return "blend"
        if hook == "training_step":
            return "forward"
        if hook == "backward":
            return "backward"
        if hook in ("optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"):
            return "optimizer"
        if action in ("run_training_epoch", "run_training_batch") or self._stack:
            return "logging"
        return ""  # outside the training loop

    def _enter(self, part: str) -> None:
        self._switch()
        self._stack.append(part)

    def _leave(self) -> None:
        self._switch()
        if self._stack:
            self._stack.pop()

    def _switch(self) -> None:
        """Add the time since the last change to the current part."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        now = time.perf_counter()
        part = self._stack[-1] if self._stack else ""
        if part:
            self.seconds["validation" if self._validating else part] += now - self._since
        self._since = now

    @override
    def summary(self) -> str:
        """One line per part: seconds, share, milliseconds per step."""
        lines = [f"Where the time of {self.steps} steps went ({self.total:.1f} s, without validation):"]
        for part, seconds in self.seconds.items():
            share = f"{100 * seconds / self.total:5.1f} %" if self.total and part != "validation" else " " * 7
            lines.append(f"  {part:<11}{seconds:9.2f} s  {share}  {1000 * seconds / max(self.steps, 1):8.1f} ms a step")
        return "\n".join(lines)


def make_profiler(wanted: str | None, run_dir: Path) -> Profiler | None:
    """Make the profiler named by ``trainer.profiler``; its report goes into the run's folder.

    Args:
        wanted: one of :data:`PROFILERS`, or None.
        run_dir: the run's folder.

    Raises:
        UserError: for any other name.
    """
    if wanted is None:
        return None
    if wanted == "parts":
        return PartsProfiler(run_dir, "profile")
    if wanted == "simple":
        return SimpleProfiler(run_dir, "profile")
    if wanted == "advanced":
        return AdvancedProfiler(run_dir, "profile")
    if wanted == "pytorch":
        # The trace opens in chrome://tracing or TensorBoard.
        return PyTorchProfiler(run_dir, "profile", export_to_chrome=True)
    raise UserError(f"trainer.profiler={wanted} is none of {', '.join(PROFILERS)}, null.")


def profiler_of(trainer: DictConfig, run_dir: Path) -> dict[str, Profiler | None]:
    """The Trainer's keyword argument ``profiler``; empty if the configuration instantiates a profiler itself."""
    wanted = trainer.get("profiler")
    return {} if isinstance(wanted, DictConfig) else {"profiler": make_profiler(wanted, run_dir)}
