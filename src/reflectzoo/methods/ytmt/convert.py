"""Conversion of the authors' checkpoints, with clear errors for files of other networks.

Files of the authors' program are dictionaries. Training, two stages: ``icnn``, ``icnn2``, ``opt_g``, ``opt_g2``,
``epoch``, ``iterations``, and ``opt_d``, ``netD`` if the adversarial term is used. One stage: the same without
``icnn2`` and ``opt_g2``. Exported for evaluation: ``icnn``, (``icnn2``), ``epoch``, ``iterations``. Module names are
the same here, so conversion only has to extract the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets.hypercolumn import HYPERCOLUMN_CHANNELS

StateDict: TypeAlias = dict[str, Tensor]
Family: TypeAlias = Literal["unet", "plain", "released"]

_STAGES = ("icnn", "icnn2")


def remap(checkpoint: Mapping[str, Any], stages: int | None = None) -> StateDict:
    """Extract the network from a checkpoint and rename its weights to reflectzoo's names.

    Accepts the authors' dictionaries, a bare state dict, reflectzoo's (returned unchanged), and training checkpoints
    (``state_dict`` with the network under ``net.``). The prefix ``module.`` of parallel training is removed. Nothing is
    modified; tensors are not copied.

    Args:
        checkpoint: return value of ``torch.load``.
        stages: number of stages of the receiving network. 2 with a single-stage file fills both stages from it, as in
            the program; 1 with a two-stage file selects its first stage. None keeps the file's stages.

    Returns:
        A state dict: bare names for one stage, ``icnn.*`` and ``icnn2.*`` for two.

    Raises:
        UserError: if the checkpoint holds no YTMT network.
        ValueError: if ``stages`` is none of the above.

    Example:
        >>> import torch
        >>> weight = torch.zeros(64, 3, 3, 3)
        >>> file = {"icnn": {"module.inc.conv_l.model.0.weight": weight}, "epoch": 68, "iterations": 595364}
        >>> list(remap(file))
        ['inc.conv_l.model.0.weight']
        >>> list(remap(file, stages=2))
        ['icnn.inc.conv_l.model.0.weight', 'icnn2.inc.conv_l.model.0.weight']
    """
    if stages not in (None, 1, 2):
        raise ValueError(f"remap: stages must be 1, 2 or None, got {stages!r}")
    parts = _find_stages(checkpoint)
    first, second = parts[0], parts[-1]
    for part in parts:
        _family(part)
    if (stages or len(parts)) == 1:
        return dict(first)
    return {
        f"{name}.{key}": value
        for name, part in zip(_STAGES, (first, second), strict=True)
        for key, value in part.items()
    }


def fit_stages(state: Mapping[str, Any], phases: int) -> tuple[StateDict, int]:
    """The weights for a network of one or two stages, and their training phase.

    A one-stage file fills both stages, as in the authors' program; its training phase is 0.

    Args:
        state: weights as returned by :func:`remap`.
        phases: number of stages of the network, 1 or 2.
    """
    return remap(state, stages=phases), min(len(_find_stages(state)), phases) - 1


def _find_stages(checkpoint: Mapping[str, Any]) -> list[StateDict]:
    """One state dict per stage, without any prefix."""
    if isinstance(checkpoint.get("icnn"), Mapping):
        return [_tensors(checkpoint[name]) for name in _STAGES if isinstance(checkpoint.get(name), Mapping)]
    if isinstance(checkpoint.get("state_dict"), Mapping):
        whole = checkpoint["state_dict"]
        state = _under(whole, "net.") or _tensors(whole)
    else:
        state = _tensors(checkpoint)
    return [part for name in _STAGES if (part := _under(state, f"{name}."))] or [state]


def _tensors(entries: Mapping[str, Any]) -> StateDict:
    return {str(key).removeprefix("module."): value for key, value in entries.items() if isinstance(value, Tensor)}


def _under(entries: Mapping[str, Any], prefix: str) -> StateDict:
    return {key.removeprefix(prefix): value for key, value in _tensors(entries).items() if key.startswith(prefix)}


@dataclass(frozen=True)
class YTMTShape:
    """The network that a state dict belongs to, as far as names and shapes determine it.

    Attributes:
        family: "unet", "plain", or "released" (the network of the published checkpoint, ytmt_ucs_old).
        fused: whether the heads have 1x1 convolutions: True for patterns C and P, which share names and shapes, False
            for A and none, which do too. Always True for "released".
        in_channels: input channels of the first convolution; 1475 with the hypercolumn over VGG-19.
        out_channels: channels of each returned layer.
        width: channels at full resolution.
        layers: convolutions per stream of a plain network, 0 for the others.
        stages: 1 or 2.
    """

    family: Family
    fused: bool
    in_channels: int
    out_channels: int
    width: int
    layers: int
    stages: int

    @property
    def hypercolumn(self) -> bool:
        """Whether the input is augmented by VGG-19 features."""
        return self.in_channels == HYPERCOLUMN_CHANNELS

    @property
    def patterns(self) -> tuple[str, ...]:
        """The exchange patterns that these weights fit."""
        if self.family == "released":
            return ("C",)
        return ("C", "P") if self.fused else ("A", "none")

    def __str__(self) -> str:
        kind = {"unet": "U-net", "plain": "plain network", "released": "U-net in the released layout (ytmt_ucs_old)"}
        text = f"{'one' if self.stages == 1 else 'two'}-stage {kind[self.family]}"
        if self.family != "released":
            text += f" of pattern {' or '.join(self.patterns)}"
        text += f", {self.in_channels} input channels ({'with' if self.hypercolumn else 'no'} hypercolumn)"
        text += f", {self.out_channels} output channels, width {self.width}"
        return text + (f", {self.layers} layers" if self.family == "plain" else "")


_ENTRANCE: dict[Family, str] = {
    "unet": "inc.conv_l.model.0.weight",
    "plain": "conv1.conv_l.model.0.weight",
    "released": "inc_1.model.0.weight",
}
_EXIT: dict[Family, str] = {
    "unet": "outc.conv_l.0.weight",
    "plain": "out.conv_l.0.weight",
    "released": "outc_1.conv.weight",
}


def _family(state: Mapping[str, Tensor]) -> Family:
    for family, key in _ENTRANCE.items():
        if key in state:
            return family
    found = f"its first weight is '{next(iter(state))}'" if state else "it holds no weights"
    raise UserError(
        f"This checkpoint is not a YTMT network ({found}): give a file of the authors' program, with an entry 'icnn', "
        "or a checkpoint of model=ytmt_*."
    )


def layout_of(state: Mapping[str, Tensor]) -> YTMTShape:
    """Determine the network that a state dict, as returned by :func:`remap`, belongs to.

    Raises:
        UserError: if it is not a YTMT network.
    """
    parts = _find_stages(state)
    first = parts[0]
    family = _family(first)
    width, in_channels = first[_ENTRANCE[family]].shape[:2]
    last = first.get(_EXIT[family])
    blocks = {key.split(".")[1] for key in first if key.startswith("convs.")}
    return YTMTShape(
        family=family,
        fused=family == "released" or any(".ytmt_head." in key for key in first),
        in_channels=in_channels,
        out_channels=0 if last is None else last.shape[0],
        width=width,
        layers=len(blocks) + 2 if family == "plain" else 0,
        stages=len(parts),
    )


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and the overrides that fit a file; None if it holds no YTMT network.

    Where names and shapes fit two patterns, the paper's main variant is assumed (C, not the ablation P; A, not none).
    """
    try:
        layout = layout_of(remap(checkpoint))
    except (UserError, AttributeError, TypeError):
        return None
    if layout.family == "plain":
        settings: dict[str, object] = {"layers": layout.layers}
        model = "ytmt_pcs" if layout.fused else "ytmt_pas"
    else:
        settings = {"hypercolumn": str(layout.hypercolumn).lower()}
        model = f"ytmt_u{'c' if layout.fused else 'a'}{'s' if layout.stages == 1 else 't'}"
        model += "_old" if layout.family == "released" else ""
    return model, [f"model.net.{key}={value}" for key, value in {**settings, "width": layout.width}.items()]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Check that a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights as returned by :func:`remap`.
        net: any network of this method.
        source: origin of the weights, the subject of the message.

    Raises:
        UserError: if they do not fit; the message describes the weights and what was expected.
    """
    found, wanted = layout_of(state), layout_of(net.state_dict())
    if found != wanted:
        raise UserError(f"{source} is a {found}, but the model is a {wanted}: choose the model that fits the weights.")
    ours = net.state_dict()
    missing = sorted(key for key in ours if key not in state)
    left_over = sorted(key for key in state if key not in ours)
    misshapen = sorted(key for key, value in ours.items() if key in state and state[key].shape != value.shape)
    faults = [
        f"{len(keys)} {what} (the first is '{keys[0]}')"
        for keys, what in ((missing, "missing"), (left_over, "unknown"), (misshapen, "of another shape"))
        if keys
    ]
    if faults:
        raise UserError(
            f"{source} looks like the {wanted} of the model, but of its {len(state)} weights some do not fit: "
            f"{', '.join(faults)}; the file may be damaged or from another version."
        )
