"""Reflection Dynamics: "Distilling Reflection Dynamics for Single-Image Reflection Removal".

Zheng, Qiao, Cao, Guo, Zhang and Lau, ICCV 2021. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size

_TEACHER = {"teacher_ckpt": "a finished teacher: a checkpoint of model=dynamics_teacher or model=dynamics"}

METHOD = Method(
    name="dynamics",
    package=__name__,
    title="Distilling Reflection Dynamics for Single-Image Reflection Removal",
    models={
        "dynamics_student": Model(
            "the student, which takes one photograph",
            tiny=("model.net.width=8", "~loss.terms.transfer", "~loss.terms.adversarial"),  # these need a teacher
            starts_from=_TEACHER,
        ),
        "dynamics_teacher": Model("the teacher, which takes three frames"),
        "dynamics": Model(
            "teacher, then student, in one run",
            tiny=("model.net.width=8", "model.teacher_epochs=1"),
            phases=("teacher", "student"),
            starts_from=_TEACHER,
        ),
    },
    networks=(".student:DynamicsStudent", ".teacher:DynamicsTeacher", ".pair:teacher_and_student"),
    tiny=("model.net.width=8",),
    size=Size(multiple=32),
    set_phase=".pair:set_phase",
    predict=".pair:predict",
    published="Reflection-dynamics",
)
