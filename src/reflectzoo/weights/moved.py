"""Former paths of networks in weight files of version 1; matched exactly, so that nothing else is ever loaded."""

from __future__ import annotations

from collections.abc import Mapping

#: ``_target_`` of a network in a file of version 1 -> its current path; networks not listed have not moved.
MOVED: Mapping[str, str] = {
    "reflectzoo.methods.dynamics.net.DynamicsStudent": "reflectzoo.methods.dynamics.student.DynamicsStudent",
    "reflectzoo.methods.dynamics.net.DynamicsTeacher": "reflectzoo.methods.dynamics.teacher.DynamicsTeacher",
    "reflectzoo.methods.dynamics.net.teacher_and_student": "reflectzoo.methods.dynamics.pair.teacher_and_student",
    "reflectzoo.methods.ytmt.module.two_stage_released": "reflectzoo.methods.ytmt.two_stage.two_stage_released",
    "reflectzoo.methods.ytmt.module.two_stage_unet": "reflectzoo.methods.ytmt.two_stage.two_stage_unet",
    "reflectzoo.methods.ytmt.net.YTMTReleasedUNet": "reflectzoo.methods.ytmt.released.YTMTReleasedUNet",
}
