"""Teacher and student in one network, for joint training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.parts import WIDTH
from reflectzoo.methods.dynamics.student import DynamicsStudent
from reflectzoo.methods.dynamics.teacher import DynamicsTeacher


class TeacherAndStudent(nn.Module):
    """Holds both networks for a training run in which the student learns from the teacher.

    Attributes:
        student_learns: whether the student is training or trained; False while only the teacher has been trained.

    Args:
        teacher: processes frames.
        student: processes a single photograph; its representation must have the teacher's channels and scale.

    Raises:
        UserError: if the two are not compatible.
    """

    def __init__(self, teacher: DynamicsTeacher, student: DynamicsStudent) -> None:
        super().__init__()
        check_pair(teacher, student)
        self.teacher = teacher
        self.student = student
        self.student_learns = False

    def forward(self, mixture: Tensor) -> Outputs:
        """Run the student, see :meth:`DynamicsStudent.forward`."""
        return cast(Outputs, self.student(mixture))


def check_pair(teacher: DynamicsTeacher, student: DynamicsStudent) -> None:
    """Check that the student can learn the teacher's representation.

    Raises:
        UserError: if channels or scale differ.
    """
    theirs = (teacher.representation_channels, teacher.scale)
    ours = (student.representation_channels, student.scale)
    if theirs != ours:
        raise UserError(
            f"The teacher's representation has {theirs[0]} channels at 1/{theirs[1]} of the size, the student's "
            f"{ours[0]} at 1/{ours[1]}: give both the same width and scale, or set the student's representation="
            f"{theirs[0]}."
        )


def teacher_and_student(
    width: int = WIDTH,
    scale: int = 4,
    residual: bool = False,
    init_gain: float | None = None,
    teacher: dict[str, bool | int | float | None] | None = None,
    student: dict[str, bool | int | float | None] | None = None,
) -> TeacherAndStudent:
    """Make a teacher and a compatible student.

    Args:
        width: ``width`` of both.
        scale: ``scale`` of both.
        residual: ``residual`` of both.
        init_gain: ``init_gain`` of both.
        teacher: further arguments of :class:`DynamicsTeacher`, which override those above.
        student: further arguments of :class:`DynamicsStudent`, likewise; its ``representation`` defaults to the
            teacher's.

    Raises:
        UserError: for invalid values, or if the two are not compatible.
    """
    shared: dict[str, object] = {"width": width, "scale": scale, "residual": residual, "init_gain": init_gain}
    first = DynamicsTeacher(**{**shared, **(teacher or {})})  # type: ignore[arg-type]
    wanted = {"representation": first.representation_channels}
    return TeacherAndStudent(first, DynamicsStudent(**{**shared, **wanted, **(student or {})}))  # type: ignore[arg-type]


def set_phase(net: nn.Module, phase: int) -> None:
    """Set the phase of joint training: 0 trains the teacher, 1 freezes it and trains the student.

    Other networks are unaffected.
    """
    if isinstance(net, TeacherAndStudent):
        net.student_learns = phase > 0
        net.teacher.requires_grad_(phase == 0)


def predict(net: nn.Module, batch: Batch) -> Outputs:
    """Run a teacher on the frames (a still picture is repeated), or a student on the mixture."""
    if isinstance(net, TeacherAndStudent) and not net.student_learns:
        net = net.teacher
    return cast(Outputs, net(frames_of(batch) if isinstance(net, DynamicsTeacher) else batch["mixture"]))


def frames_of(batch: Batch) -> Tensor:
    """The frames of a batch, (B, N, 3, H, W), with still pictures repeated; (B, 3, H, W) if there are no sequences."""
    if "frames" not in batch:
        return batch["mixture"]
    moving = batch["has_frames"][:, None, None, None, None]
    return torch.where(moving, batch["frames"], batch["mixture"][:, None])
