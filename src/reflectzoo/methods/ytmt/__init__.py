"""YTMT: "Trash or Treasure? An Interactive Dual-Stream Strategy for Single Image Reflection Separation".

Hu and Guo, NeurIPS 2021. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size

_TINY = ("model.net.width=8", "model.net.hypercolumn=false")


def _two_stages(summary: str, family: str = "unet") -> Model:
    return Model(
        summary,
        phases=("stage 1", "stage 2"),
        tiny=(*_TINY, "model.stage1_epochs=1"),
        family=family,
        starts_from={"stage1_ckpt": "a finished first stage: a checkpoint of model=ytmt_*, or the authors' file"},
    )


def _one_stage(summary: str, family: str = "unet") -> Model:
    return Model(summary, tiny=("model.net.width=8", "model.net.layers=4") if family == "plain" else (), family=family)


METHOD = Method(
    name="ytmt",
    package=__name__,
    title="Trash or Treasure? An Interactive Dual-Stream Strategy for Single Image Reflection Separation",
    models={
        "ytmt_uct": _two_stages("U-shaped, fusion by concatenation, two stages; the paper's default"),
        "ytmt_uat": _two_stages("U-shaped, fusion by addition, two stages"),
        "ytmt_ucs": _one_stage("U-shaped, fusion by concatenation, one stage"),
        "ytmt_uas": _one_stage("U-shaped, fusion by addition, one stage"),
        "ytmt_pcs": _one_stage("constant resolution, fusion by concatenation, one stage", "plain"),
        "ytmt_pas": _one_stage("constant resolution, fusion by addition, one stage", "plain"),
        "ytmt_uct_old": _two_stages("two stages in the layout of the published checkpoint", "released"),
        "ytmt_ucs_old": _one_stage("one stage in the layout of the published checkpoint", "released"),
        "ytmt_no_interaction": _one_stage("ablation of Table 4, w/o FI"),
        "ytmt_relu_only": _one_stage("ablation of Table 4, ReLU only"),
    },
    networks=(
        ".net:YTMTUNet",
        ".net:YTMTPlain",
        ".released:YTMTReleasedUNet",
        ".two_stage:two_stage_unet",
        ".two_stage:two_stage_released",
    ),
    tiny=_TINY,
    size=Size(multiple=32),
    detect=".convert:recognise",
    remap=".convert:remap",
    fit_phases=".convert:fit_stages",
    check=".convert:check_layout",
    set_phase=".two_stage:set_phase",
    published="YTMT",
)
