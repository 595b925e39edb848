"""Names that stored configurations use for what has moved since; exact ones, so that nothing else can be meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Old name of a ``_target_`` -> where it lives now.
MOVED: Mapping[str, str] = {
    "reflectzoo.callbacks.interrupt.GracefulInterrupt": "reflectzoo.training.callbacks.interrupt.GracefulInterrupt",
    "reflectzoo.callbacks.panels.ImagePanels": "reflectzoo.training.callbacks.panels.ImagePanels",
    "reflectzoo.callbacks.progress.Progress": "reflectzoo.training.callbacks.progress.Progress",
    "reflectzoo.core.module.ReflectionModule": "reflectzoo.training.module.ReflectionModule",
    "reflectzoo.core.schedules.stepwise": "reflectzoo.training.schedules.stepwise",
    "reflectzoo.loggers.tensorboard": "reflectzoo.training.loggers.tensorboard",
    "reflectzoo.loggers.wandb": "reflectzoo.training.loggers.wandb",
    "reflectzoo.losses.decoupling.DecouplingLoss": "reflectzoo.methods.dynamics.decoupling.DecouplingLoss",
    "reflectzoo.losses.ssim.StructureLoss": "reflectzoo.methods.corrn.structure.StructureLoss",
    "reflectzoo.losses.statistic.StatisticLoss": "reflectzoo.methods.corrn.statistic.StatisticLoss",
    "reflectzoo.losses.transfer.RepresentationAdversarialLoss": (
        "reflectzoo.methods.dynamics.transfer.RepresentationAdversarialLoss"
    ),
    "reflectzoo.losses.transfer.TransferLoss": "reflectzoo.methods.dynamics.transfer.TransferLoss",
    "reflectzoo.losses.view_synthesis.ViewSynthesisLoss": (
        "reflectzoo.methods.dynamics.view_synthesis.ViewSynthesisLoss"
    ),
    "reflectzoo.methods.dynamics.net.DynamicsStudent": "reflectzoo.methods.dynamics.student.DynamicsStudent",
    "reflectzoo.methods.dynamics.net.DynamicsTeacher": "reflectzoo.methods.dynamics.teacher.DynamicsTeacher",
    "reflectzoo.methods.dynamics.net.teacher_and_student": "reflectzoo.methods.dynamics.pair.teacher_and_student",
    "reflectzoo.methods.ytmt.net.YTMTReleasedUNet": "reflectzoo.methods.ytmt.released.YTMTReleasedUNet",
}


def with_current_names(record: Any) -> Any:
    """A copy of a stored configuration whose targets are called as they are today.

    Args:
        record: dictionaries and lists, as deep as they like.
    """
    if isinstance(record, dict):
        return {
            key: MOVED.get(value, value) if key == "_target_" and isinstance(value, str) else with_current_names(value)
            for key, value in record.items()
        }
    if isinstance(record, list):
        return [with_current_names(each) for each in record]
    return record
