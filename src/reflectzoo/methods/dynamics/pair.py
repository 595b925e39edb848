"""Teacher and student side by side, while the one teaches the other."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from reflectzoo.core.batch import Outputs
from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.parts import WIDTH
from reflectzoo.methods.dynamics.student import DynamicsStudent
from reflectzoo.methods.dynamics.teacher import DynamicsTeacher


class TeacherAndStudent(nn.Module):
    """Both, for a training in which the second learns from the first.

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
    teacher: dict[str, object] | None = None,
    student: dict[str, object] | None = None,
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
