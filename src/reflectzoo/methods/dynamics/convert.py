"""Extraction of a teacher or a student from a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import nn

from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.pair import TeacherAndStudent
from reflectzoo.methods.dynamics.teacher import DynamicsTeacher
from reflectzoo.weights.layouts import fill, network_of
from reflectzoo.weights.stored import NetworkRecord, build_stored, parse_record


def teacher_of(checkpoint: dict[str, Any], name: str) -> DynamicsTeacher:
    """The teacher in a checkpoint of ``model=dynamics_teacher`` or ``model=dynamics``, in evaluation mode.

    Args:
        checkpoint: content of the file.
        name: name of the file, for messages.

    Raises:
        UserError: if it holds no teacher, or is damaged.
    """
    net = _net_of(checkpoint, name)
    if isinstance(net, TeacherAndStudent):
        net = net.teacher
    if not isinstance(net, DynamicsTeacher):
        raise UserError(f"{name} holds no teacher: give a checkpoint of model=dynamics_teacher or model=dynamics.")
    teacher: DynamicsTeacher = net.eval()
    return teacher


def _net_of(checkpoint: dict[str, Any], name: str) -> nn.Module:
    record = checkpoint.get("reflectzoo")
    state = checkpoint.get("state_dict")
    if not isinstance(record, dict) or not isinstance(state, dict) or "model" not in record:
        raise UserError(f"{name} was not written by reflectzoo.train, so it does not say which network it holds.")
    stored = parse_record(record, name)
    if stored.method.name != "dynamics":
        raise UserError(f"{name} was made by model={stored.model}, not by a model of Reflection Dynamics.")
    weights = network_of(state)
    net = build_stored(stored, name, weights)
    fill(net, weights, name, stored.model)
    return net


def student_checkpoint(checkpoint: dict[str, Any], name: str = "The checkpoint") -> dict[str, Any]:
    """Convert a checkpoint of ``model=dynamics`` to one of ``model=dynamics_student``, for inference.

    The teacher, the discriminator and the training state are left out.

    Args:
        checkpoint: content of the file; not modified.
        name: name of the file, for messages.

    Returns:
        The content of the student's checkpoint.

    Raises:
        UserError: if it is not a checkpoint of ``model=dynamics``, or its student is untrained.
    """
    record = checkpoint.get("reflectzoo")
    if not isinstance(record, dict) or record.get("model") != "dynamics" or "state_dict" not in checkpoint:
        raise UserError(f"{name} is not a checkpoint of model=dynamics.")
    stored = parse_record(record, name)
    if stored.phase == 0:
        raise UserError(f"{name} was written while the teacher was training, so its student is untrained.")
    net = _net_of(checkpoint, name)
    assert isinstance(net, TeacherAndStudent)
    shared = {key: value for key, value in stored.settings.items() if key not in ("teacher", "student")}
    settings = {
        **shared,
        "representation": net.student.representation_channels,
        **(stored.settings.get("student") or {}),
    }
    student = NetworkRecord("dynamics_student", stored.method, "DynamicsStudent", settings)
    return {
        "state_dict": {f"net.{key}": value for key, value in net.student.state_dict().items()},
        "reflectzoo": student.as_record(),
        **{key: checkpoint[key] for key in ("pytorch-lightning_version",) if key in checkpoint},
    }
