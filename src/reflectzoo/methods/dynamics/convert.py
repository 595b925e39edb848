"""Taking a teacher or a student out of a checkpoint."""

from __future__ import annotations

from typing import Any

from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.pair import TeacherAndStudent
from reflectzoo.methods.dynamics.student import DynamicsStudent
from reflectzoo.methods.dynamics.teacher import DynamicsTeacher


def teacher_of(checkpoint: dict[str, Any], name: str) -> DynamicsTeacher:
    """The teacher of a checkpoint of ``model=dynamics_teacher`` or ``model=dynamics``, in evaluation mode.

    Args:
        checkpoint: as read.
        name: what to call it in an error.

    Raises:
        UserError: if it holds none.
    """
    net = _net_of(checkpoint, name)
    if isinstance(net, TeacherAndStudent):
        net = net.teacher
    if not isinstance(net, DynamicsTeacher):
        raise UserError(f"{name} holds no teacher: give a checkpoint of model=dynamics_teacher or model=dynamics.")
    return net.eval()


def _net_of(checkpoint: dict[str, Any], name: str) -> object:
    from reflectzoo.config import build_from_record

    record = (checkpoint.get("reflectzoo") or {}).get("config") or {}
    if "net" not in record or "state_dict" not in checkpoint:
        raise UserError(f"{name} was not written by reflectzoo.train, so it does not say which network it holds.")
    try:
        net = build_from_record(record["net"])
    except ValueError as error:
        raise UserError(f"{name} is not opened: {error}.") from error
    if not isinstance(net, DynamicsTeacher | DynamicsStudent | TeacherAndStudent):
        raise UserError(f"{name} was made by model={record.get('name')}, not by a model of Reflection Dynamics.")
    prefix = "net."
    state = checkpoint["state_dict"]
    net.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    return net


def student_checkpoint(checkpoint: dict[str, Any], name: str = "The checkpoint") -> dict[str, Any]:
    """The student of a checkpoint of ``model=dynamics`` as a checkpoint of ``model=dynamics_student``, to look with.

    Left out are the teacher, the discriminator and the state of the training.

    Args:
        checkpoint: as read; not changed.
        name: what to call it in an error.

    Raises:
        UserError: if it is no checkpoint of ``model=dynamics``, or its student has not been trained.
    """
    record = checkpoint.get("reflectzoo") or {}
    config = record.get("config") or {}
    if config.get("name") != "dynamics" or "state_dict" not in checkpoint:
        raise UserError(f"{name} is no checkpoint of model=dynamics.")
    if int(record.get("phase", 0)) == 0:
        raise UserError(f"{name} was written while the teacher trained, its student knows nothing yet.")
    net = _net_of(checkpoint, name)
    assert isinstance(net, TeacherAndStudent)
    student: dict[str, Any] = {"_target_": "reflectzoo.methods.dynamics.student.DynamicsStudent"}
    wanted = {key: value for key, value in config["net"].items() if key not in ("_target_", "teacher", "student")}
    student |= {**wanted, "representation": net.student.representation_channels, **(config["net"].get("student") or {})}
    loss = {
        "_target_": "reflectzoo.losses.composite.CompositeLoss",
        "terms": {"transmission": {"_target_": "reflectzoo.losses.pixel.PixelLoss"}},
    }
    return {
        "state_dict": {f"net.{key}": value for key, value in net.student.state_dict().items()},
        "reflectzoo": {
            **record,
            "model": "dynamics_student",
            "phase": 0,
            "vgg": None,
            "config": {**config, "name": "dynamics_student", "net": student, "loss": loss, "teacher_ckpt": None},
        },
        **{key: checkpoint[key] for key in ("pytorch-lightning_version",) if key in checkpoint},
    }
