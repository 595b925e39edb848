"""Names that files of weights use for networks that have moved since; exact ones, so that nothing else can be meant."""

from __future__ import annotations

from collections.abc import Mapping

#: ``_target_`` of a network in a file of version 1 -> where it lives now; networks that are not here stayed in place.
MOVED: Mapping[str, str] = {
    "reflectzoo.methods.dynamics.net.DynamicsStudent": "reflectzoo.methods.dynamics.student.DynamicsStudent",
    "reflectzoo.methods.dynamics.net.DynamicsTeacher": "reflectzoo.methods.dynamics.teacher.DynamicsTeacher",
    "reflectzoo.methods.dynamics.net.teacher_and_student": "reflectzoo.methods.dynamics.pair.teacher_and_student",
    "reflectzoo.methods.ytmt.module.two_stage_released": "reflectzoo.methods.ytmt.two_stage.two_stage_released",
    "reflectzoo.methods.ytmt.module.two_stage_unet": "reflectzoo.methods.ytmt.two_stage.two_stage_unet",
    "reflectzoo.methods.ytmt.net.YTMTReleasedUNet": "reflectzoo.methods.ytmt.released.YTMTReleasedUNet",
}
