"""``python -m reflectzoo.bench.train``: training speed of every method in images per second, and where its time goes.

Each method trains for some steps as configured (loss, discriminators, hypercolumns) in this process, after two warm-up
steps, without validation, tests and checkpoints. ``wait`` is the time spent waiting for photographs, ``blend`` the time
to move a batch to its device and synthesise the mixtures there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console

from reflectzoo.bench.measure import machine
from reflectzoo.cli import sentence, user_sentences
from reflectzoo.cli.tables import Column, TextTable
from reflectzoo.config import compose_config
from reflectzoo.core.registry import model_names
from reflectzoo.errors import UserError
from reflectzoo.training.devices import device_count
from reflectzoo.training.profiling import TIMED_PARTS, PartsProfiler
from reflectzoo.training.run import train

GOAL = 0.05
"""Largest share of a step that may be spent waiting for photographs."""

_SHOWN = tuple(part for part in TIMED_PARTS if part != "validation")

EPILOG = """examples:
  reflectzoo bench train lite corrn --set model.net.width=16 --set data.crop=64
  reflectzoo bench train --set trainer=gpu --set trainer.precision=bf16-mixed --set data.batch_size=8 --batches 50
"""


@dataclass(frozen=True)
class Speed:
    """Training speed of one method.

    Attributes:
        model: name of the model.
        images_per_second: samples per second over all measured steps.
        seconds: total time of each part over these steps.
        steps: number of measured steps.
        batch_size: samples per step.
        memory: peak GPU memory in bytes; None without a GPU.
    """

    model: str
    images_per_second: float
    seconds: dict[str, float]
    steps: int
    batch_size: int
    memory: int | None

    def share(self, part: str) -> float:
        """Share of a part in the total time, in [0, 1]."""
        whole = sum(self.seconds[each] for each in _SHOWN)
        return self.seconds[part] / whole if whole else 0.0


class _Measured(pl.Callback):
    """Keeps a reference to the trainer's profiler after training."""

    def __init__(self) -> None:
        self.profiler: PartsProfiler | None = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        profiler: object = getattr(trainer, "profiler", None)  # not declared in Lightning
        assert isinstance(profiler, PartsProfiler)
        self.profiler = profiler


def measure_training(model: str, overrides: Sequence[str] = (), batches: int = 10) -> Speed:
    """Train one method for some steps, after two warm-up steps.

    Args:
        model: name of the model.
        overrides: overrides of the configuration.
        batches: number of measured steps.

    Raises:
        UserError: for an invalid configuration.
    """
    steps = batches + 2
    fixed = (
        *(f"model={model}", "model.vgg=random", "callbacks.best=null", "callbacks.last=null", "callbacks.panels=null"),
        *("trainer.profiler=parts", "trainer.max_epochs=1", "test=false"),
        *("++trainer.limit_val_batches=0", f"++trainer.limit_train_batches={steps}"),
    )
    with user_sentences(*overrides):
        config = compose_config([*fixed, *overrides])
    size = int(config.data.batch_size)
    if "samples_per_epoch" in config.data:
        config.data.samples_per_epoch = steps * size * device_count(config.trainer)
    found = _Measured()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        config.run_dir = folder
        train(config, [found])
    assert found.profiler is not None
    profiler = found.profiler
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    rate = profiler.steps * size / profiler.total if profiler.total else 0.0
    return Speed(model, rate, dict(profiler.seconds), profiler.steps, size, memory)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", nargs="*", help="methods (default: all)")
    parser.add_argument("--batches", type=int, default=10, help="measured steps (default %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the configuration")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")


def run(arguments: argparse.Namespace) -> int:
    """Measure the chosen methods, and print a table.

    Returns:
        Exit status: 0, even if a method had to wait for photographs; 1 if a method could not be measured.

    Raises:
        UserError: for an unknown model or an invalid option.
    """
    known = model_names()
    unknown = [name for name in arguments.model if name not in known]
    if unknown:
        raise UserError(f"There is no model={unknown[0]}: choose from {', '.join(known)}.")
    if arguments.batches < 1:
        raise UserError(f"--batches must be at least 1, got {arguments.batches}.")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise UserError(f"There is no folder for {arguments.json}: make it first.")
    here = machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{here['cpu']}, {here['threads']} threads, {gpu}, torch {here['torch']}, load {here['load']}")
    speeds = []
    failed = 0
    for name in arguments.model or known:
        try:
            speed = measure_training(name, arguments.set, arguments.batches)
        except UserError as error:  # e.g. a student without a teacher, or a setting that this method does not have
            console.print(f"{name}: {error}", markup=False)
            failed += 1
            continue
        speeds.append(speed)
        shares = ", ".join(f"{part} {100 * speed.share(part):.0f} %" for part in _SHOWN)
        console.print(f"{name}: {speed.images_per_second:.2f} images/s ({shares})")
    console.print("\n".join(_table(speeds)), markup=False)
    late = [speed.model for speed in speeds if speed.share("wait") > GOAL]
    if late:
        console.print(
            f"More than {100 * GOAL:.0f} % of the time {', '.join(late)} waited for photographs: data.num_workers=, "
            "data.cache_mb= or a smaller data.crop= may help."
        )
    if arguments.json is not None:
        report = {"machine": {**here, "gpu": gpu}, "set": arguments.set, "speeds": [asdict(each) for each in speeds]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _table(speeds: Sequence[Speed]) -> list[str]:
    heads = ("images/s", "ms a step", *(f"{part} %" for part in _SHOWN), "GPU GB")
    rows = []
    for speed in speeds:
        step = 1000 * sum(speed.seconds[part] for part in _SHOWN) / max(speed.steps, 1)
        memory = "" if speed.memory is None else f"{speed.memory / 2**30:.2f}"
        shares = (f"{100 * speed.share(part):.1f}" for part in _SHOWN)
        rows.append([speed.model, f"{speed.images_per_second:.2f}", f"{step:.1f}", *shares, memory])
    return TextTable([Column("model"), *(Column(head, right=True) for head in heads)], rows).plain()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command on its own; see :func:`run`."""
    parser = argparse.ArgumentParser(
        prog="reflectzoo bench train", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        return run(arguments)
    except BaseException as error:
        told = sentence(error, arguments.set)
        if told is None:
            raise
        sys.stderr.write(f"reflectzoo: {told[0]}\n")
        return told[1]


if __name__ == "__main__":
    sys.exit(main())
