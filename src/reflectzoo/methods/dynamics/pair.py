"""Teacher and student side by side, while the one teaches the other."""

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
    """Both, for a training in which the second learns from the first.

    Attributes:
        student_learns: whether the student trains, or has; before, only the teacher has learnt anything.

    Args:
        teacher: watches frames.
        student: looks at one photograph; must hallucinate as many channels as the teacher's representation has.

    Raises:
        UserError: if the two do not fit together.
    """

    def __init__(self, teacher: DynamicsTeacher, student: DynamicsStudent) -> None:
        super().__init__()
        check_pair(teacher, student)
        self.teacher = teacher
        self.student = student
        self.student_learns = False

    def forward(self, mixture: Tensor) -> Outputs:
        """What the student sees, see :meth:`DynamicsStudent.forward`."""
        return cast(Outputs, self.student(mixture))


def check_pair(teacher: DynamicsTeacher, student: DynamicsStudent) -> None:
    """Raise unless the student can learn the teacher's representation.

    Raises:
        UserError: in one sentence.
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
    """A teacher and the student that fits it.

    Args:
        width: of both.
        scale: of both.
        residual: of both.
        init_gain: of both.
        teacher: further arguments of :class:`DynamicsTeacher`.
        student: further arguments of :class:`DynamicsStudent`; its ``representation`` follows the teacher.
    """
    shared: dict[str, object] = {"width": width, "scale": scale, "residual": residual, "init_gain": init_gain}
    first = DynamicsTeacher(**{**shared, **(teacher or {})})  # type: ignore[arg-type]
    wanted = {"representation": first.representation_channels}
    return TeacherAndStudent(first, DynamicsStudent(**{**shared, **wanted, **(student or {})}))  # type: ignore[arg-type]


def set_phase(net: nn.Module, phase: int) -> None:
    """Of a training of both: the teacher learns in phase 0, and is frozen while the student does in phase 1."""
    if isinstance(net, TeacherAndStudent):
        net.student_learns = phase > 0
        net.teacher.requires_grad_(phase == 0)


def predict(net: nn.Module, batch: Batch) -> Outputs:
    """A teacher sees frames (a still picture is one that does not move), a student the mixture alone."""
    if isinstance(net, TeacherAndStudent) and not net.student_learns:
        net = net.teacher
    return cast(Outputs, net(frames_of(batch) if isinstance(net, DynamicsTeacher) else batch["mixture"]))


def frames_of(batch: Batch) -> Tensor:
    """(B, N, 3, H, W), still pictures as frames that do not move; (B, 3, H, W) if there are only those."""
    if "frames" not in batch:
        return batch["mixture"]
    moving = batch["has_frames"][:, None, None, None, None]
    return torch.where(moving, batch["frames"], batch["mixture"][:, None])
