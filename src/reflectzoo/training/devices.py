"""Devices, processes, precision and compilation: checks and settings before a training run starts."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, open_dict
from pytorch_lightning.callbacks import Callback, WeightAveraging
from pytorch_lightning.utilities import rank_zero_info

from reflectzoo.core.ranks import external_rank
from reflectzoo.errors import UserError
from reflectzoo.training.module import ReflectionModule

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
COMPILE_BACKENDS = ("inductor", "aot_eager", "eager")


def device_count(trainer: DictConfig) -> int:
    """The number of processes per node.

    Raises:
        UserError: if ``trainer.devices`` is neither a number nor a list nor ``auto``.
    """
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        return 1 if _on_cpu(trainer) else max(torch.cuda.device_count(), 1)
    try:
        return int(devices) if isinstance(devices, int | str) else len(devices)
    except (ValueError, TypeError):
        raise UserError(f"trainer.devices={devices} is not a number of devices: give one, a list, or auto.") from None


def _on_cpu(trainer: DictConfig) -> bool:
    accelerator = trainer.get("accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and not _has_gpu())


def _has_gpu() -> bool:
    # Not torch.cuda.is_available(), after which processes could not be forked.
    return torch.cuda.device_count() > 0 or torch.backends.mps.is_available()


def check_devices(config: DictConfig) -> None:
    """Reject what cannot run on these devices: GPUs that are not there, a number of processes other than was started.

    And a sweep whose child processes would each restart the whole sweep.

    Raises:
        UserError: with what works.
    """
    count = device_count(config.trainer)
    accelerator = config.trainer.get("accelerator")
    if accelerator in ("gpu", "cuda") and not _has_gpu():
        raise UserError(
            f"trainer.accelerator={accelerator}, but PyTorch {torch.__version__} finds no GPU on this machine: use "
            "trainer.accelerator=cpu, or install a PyTorch that fits its GPU driver."
        )
    _check_processes(count, int(config.trainer.get("num_nodes") or 1))
    strategy = str(config.trainer.get("strategy", "auto"))
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    # Under torchrun and srun all processes exist already, and each runs every job of the sweep.
    if not multirun or count == 1 or "spawn" in strategy or "fork" in strategy or external_rank() is not None:
        return
    raise UserError(
        f"A multirun with trainer.devices={count} and trainer.strategy={_short(strategy)} would start the whole sweep "
        "again in every process: add trainer.strategy=ddp_fork_find_unused_parameters_true (CPU) or "
        "ddp_spawn_find_unused_parameters_true (GPU), or run the jobs one by one."
    )


def _check_processes(count: int, nodes: int) -> None:
    """See that torchrun or srun has started as many processes as are configured; otherwise some would wait for ever.

    Args:
        count: configured processes per node.
        nodes: configured number of nodes.

    Raises:
        UserError: with the settings or the command that fit.
    """
    started = external_rank()
    if started is None:
        if nodes > 1:
            raise UserError(
                f"trainer.num_nodes={nodes} needs processes on every node: start them with srun, or with torchrun on "
                "each node."
            )
        return
    processes = started[1]
    if processes == count * nodes == 1:
        return
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        # Lightning insists on --ntasks-per-node, which srun -n does not set.
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(count))
        if processes > 1 and "SLURM_STEP_ID" not in os.environ:
            if count * nodes == 1:
                return  # in the batch script itself, perhaps beside others
            raise UserError(
                f"This SLURM job has {processes} tasks, but only one of them was started: write srun in front of the "
                "command."
            )
    if count * nodes != processes:
        by = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM"
        raise UserError(
            f"{by} started {processes} process{'es' * (processes > 1)}, but trainer.devices={count} and "
            f"trainer.num_nodes={nodes} are for {count * nodes}: use trainer=ddp, with the processes per node as "
            "trainer.devices and the number of nodes as trainer.num_nodes."
        )


def cluster_of() -> list[ClusterEnvironment]:
    """Plugins with which Lightning leaves SIGUSR1 to us, in a SLURM job.

    Its own handler saves in the middle of a step, into a file that a job with a new folder would not find.
    """
    if external_rank() is None or "TORCHELASTIC_RUN_ID" in os.environ:
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def _short(strategy: str) -> str:
    return "fsdp" if "FSDP" in strategy else strategy


def unify_trainer_settings(config: DictConfig) -> None:
    """Make accumulation, clipping and float16 settings work alike for all methods; changes ``config`` in place.

    For methods with one optimiser Lightning accumulates and clips, for the others :class:`AdversarialModule` does.
    ``trainer.accumulate_grad_batches`` and ``trainer.gradient_clip_val`` are passed on to whichever applies. A fused
    optimiser is made unfused under float16, and float16 becomes bfloat16 on a CPU.

    Raises:
        UserError: if the settings of trainer and model contradict each other.
    """
    trainer, model = config.trainer, config.model
    pairs = (("accumulate_grad_batches", "accumulate", 1), ("gradient_clip_val", "clip_grad_norm", None))
    for theirs, ours, off in pairs:
        asked = trainer.get(theirs)
        if asked is None or asked == off or ours not in model:
            continue
        if model[ours] not in (off, asked):
            raise UserError(
                f"trainer.{theirs}={asked} and model.{ours}={model[ours]} contradict each other: set only one."
            )
        with open_dict(config):
            model[ours], trainer[theirs] = asked, off
    if trainer.get("precision") in ("16-mixed", "16", 16) and _on_cpu(trainer):
        with open_dict(config):
            trainer.precision = "bf16-mixed"
        rank_zero_info("trainer.precision=bf16-mixed: CPUs do not train in 16-mixed")
    optimizer = config.get("optimizer")
    if str(trainer.get("precision")).startswith("16") and optimizer and optimizer.get("fused"):
        # A fused optimiser unscales gradients itself, after they have been clipped.
        with open_dict(config):
            optimizer.fused = False
        rank_zero_info("optimizer.fused=false: in 16-mixed, gradients are unscaled before they are clipped")


def check_strategy(config: DictConfig, model: ReflectionModule, callbacks: Sequence[Callback]) -> None:
    """Reject FSDP where it is not supported: several optimisers, averaged weights, or no GPUs.

    Raises:
        UserError: with the trainer to use instead.
    """
    if "fsdp" not in str(config.trainer.get("strategy", "")).lower():
        return
    if not model.automatic_optimization:
        raise UserError(
            f"trainer=fsdp shards one optimiser's weights, and model={model.name} trains with several: use trainer=ddp."
        )
    if any(isinstance(each, WeightAveraging) for each in callbacks):
        raise UserError("callbacks=ema needs every weight in each process, trainer=fsdp shards them: use trainer=ddp.")
    if _on_cpu(config.trainer):
        raise UserError(
            "trainer=fsdp shards weights across GPUs, with trainer.accelerator=gpu: use trainer=ddp on CPUs."
        )


def start_compiling(model: ReflectionModule, wanted: bool | str) -> None:
    """Compile the networks in place, on first use; in place, so that state-dict keys get no prefix.

    Args:
        model: the module whose :meth:`~reflectzoo.training.module.ReflectionModule.compiled_parts` are compiled.
        wanted: the setting ``compile``: false, true, a mode or a backend of ``torch.compile``.

    Raises:
        UserError: for any other value.
    """
    if wanted is False or wanted is None:
        return
    if wanted is True:
        options: dict[str, str] = {}
    elif wanted in COMPILE_MODES:
        options = {"mode": str(wanted)}
    elif wanted in COMPILE_BACKENDS:
        options = {"backend": str(wanted)}
    else:
        known = ", ".join((*COMPILE_MODES, *COMPILE_BACKENDS))
        raise UserError(f"compile={wanted} is neither true nor false nor one of {known}.")
    for part in model.compiled_parts():
        part.compile(**options)
