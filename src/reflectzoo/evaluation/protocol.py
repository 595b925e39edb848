"""How a paper turns pictures into numbers, said in full: everything here changes the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from annotated_types import MinLen
from torch import Tensor

from reflectzoo.core.annotations import NotNegative, Weight
from reflectzoo.core.batch import Batch, Layer
from reflectzoo.core.settings import check_value
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.errors import UserError
from reflectzoo.metrics.images import ImageMetric, RegionMetric
from reflectzoo.metrics.known import metric_classes

LAYERS: tuple[Layer, ...] = get_args(Layer)
FORMERLY: Mapping[str, Any] = {"crop_border": 0}
"""Attributes that the protocols of older results do not hold, and what they were."""

_WORDS = {
    "per_channel": "PSNR per colour channel",
    "pooled": "PSNR of all channels together",
    "uniform7": "SSIM under a uniform 7x7 window",
    "gaussian11": "SSIM under a Gaussian 11x11 window",
}


@dataclass(frozen=True)
class Protocol:
    """One way of scoring. Its files in ``conf/protocol/`` name the paper or program that scores so.

    Attributes:
        name: of the file.
        source: who scores like this, and where we know it from.
        resize: how mixtures and truths are resized before a network sees them and before anything is scored, see
            :class:`~reflectzoo.data.datasets.sizes.EvalSize`.
        resize_for: data set -> what differs from ``resize`` there.
        clamp: cut predictions off at 0 and 1 first.
        round_8bit: round predictions to the 256 values that a picture file holds.
        psnr: ``per_channel`` or ``pooled`` (:mod:`reflectzoo.metrics.functional`).
        ssim: ``uniform7`` (scikit-image's default) or ``gaussian11`` (Wang et al.).
        si: ``rgb`` or ``grey``, for SI and the scores of regions.
        average: within a data set, over ``images``, or over ``pixels``: then PSNR is that of the error of all pixels of
            the set, and other scores count by their images' size.
        overall: the average column: over all ``images``, so that large sets count more (Location-aware's 494), over
            ``sets`` alike, or a mapping of data set -> weight (0 for those not named).
        reflection_truth: what a predicted reflection is compared with: ``layer``, the reflection as it was shot, where
            it was; or ``residual``, mixture - transmission, clamped to [0, 1] (YTMT's Table 2).
        layers: which layers are scored.
        metrics: which scores, in the order of columns: keys of :func:`~reflectzoo.metrics.known.known_metrics`, or
            ``module.Class`` of your own. Those of regions need ``masks``, without which they are left out.
        crop_border: pixels cut off at every side of predictions and truths before anything is scored, as the NTIRE
            challenges do.

    Raises:
        UserError: for a value that is none of these.
    """

    name: str
    source: str = ""
    resize: EvalSize | Mapping[str, Any] = field(default_factory=EvalSize)
    resize_for: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clamp: bool = True
    round_8bit: bool = False
    psnr: Literal["per_channel", "pooled"] = "per_channel"
    ssim: Literal["uniform7", "gaussian11"] = "uniform7"
    si: Literal["rgb", "grey"] = "rgb"
    average: Literal["images", "pixels"] = "images"
    overall: Literal["images", "sets"] | Mapping[str, Weight] = "images"
    reflection_truth: Literal["layer", "residual"] = "layer"
    layers: Annotated[Sequence[Layer], MinLen(1)] = LAYERS
    metrics: Annotated[Sequence[str], MinLen(1)] = ("psnr", "ssim", "lmse", "ncc", "si", "ssimr", "sir")
    crop_border: NotNegative = 0

    def __post_init__(self) -> None:
        for name, annotation in get_type_hints(type(self), include_extras=True).items():
            check_value(f"protocol.{name}", getattr(self, name), annotation)
        if isinstance(self.overall, Mapping) and not any(self.overall.values()):
            raise UserError("protocol.overall gives every data set the weight 0.")
        for name in self.metrics:
            metric_classes(name)
        # Read now, so that a mistake is told before anything is scored.
        for name in ("", *self.resize_for):
            self.size_for(name)

    def size_for(self, dataset: str) -> EvalSize:
        """How pictures of a data set are resized."""
        base = dataclasses.asdict(EvalSize.read(self.resize, "protocol.resize"))
        own = dict(self.resize_for.get(dataset) or {})
        if {"shorter", "longer", "size"} & {name for name, value in own.items() if value is not None}:
            base.update(shorter=None, longer=None, size=None)
        return EvalSize.read({**base, **own}, f"protocol.resize_for.{dataset}" if own else "protocol.resize")

    def prepare(self, prediction: Tensor) -> Tensor:
        """A prediction (B, 3, H, W) as it is scored, in double precision."""
        image = prediction.detach().float()
        if self.clamp:
            image = image.clamp(0, 1)
        # Rounded in single precision, as where files are written: halves go the same way.
        return (image * 255).round().double() / 255 if self.round_8bit else image.double()

    def truth(self, layer: str, batch: Batch) -> Tensor | None:
        """What a layer of one sample is compared with, (1, 3, H, W) in double precision; None where it is unknown."""
        if layer == "transmission":
            return batch["transmission"].double() if bool(batch["has_transmission"][0]) else None
        if self.reflection_truth == "residual":
            if not bool(batch["has_transmission"][0]):
                return None
            return (batch["mixture"].double() - batch["transmission"].double()).clamp(0, 1)
        return batch["reflection"].double() if bool(batch["has_reflection"][0]) else None

    def scores(self, masks: bool = False) -> dict[str, ImageMetric]:
        """The scores by key, ready to be used.

        Args:
            masks: whether there are regions to be scored.

        Raises:
            UserError: if one needs weights that cannot be had, or two have one key.
        """
        scores: dict[str, ImageMetric] = {}
        for name in dict.fromkeys(self.metrics):
            classes = metric_classes(name)
            wanted = getattr(self, classes[0].key, None)
            chosen = next((each for each in classes if each.variant == wanted), classes[0])
            if chosen.regional and not masks:
                continue
            if chosen.key in scores:
                raise UserError(f"protocol.metrics names two scores '{chosen.key}': leave one out.")
            scores[chosen.key] = chosen.for_protocol(self)
            scores[chosen.key].prepare()
        return scores

    def cut(self, image: Tensor) -> Tensor:
        """An image (..., H, W) without its border; at least a pixel remains."""
        border = min(self.crop_border, (min(image.shape[-2:]) - 1) // 2)
        return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]

    def record(self) -> dict[str, Any]:
        """Plain values of every attribute, for a result file."""
        plain = dataclasses.asdict(self)
        plain["resize"] = dataclasses.asdict(EvalSize.read(self.resize))
        plain["layers"], plain["metrics"] = list(self.layers), list(self.metrics)
        return plain

    def __str__(self) -> str:
        """The protocol in one line.

        Example:
            >>> str(Protocol("plain", round_8bit=True))  # doctest: +NORMALIZE_WHITESPACE
            'plain: pictures as stored; predictions clamped, rounded to 8 bits; PSNR per colour channel, SSIM under a
            uniform 7x7 window; averages over images, overall over images'
        """
        sizes = [f"pictures {self.size_for('')}"] + [f"{name} {self.size_for(name)}" for name in self.resize_for]
        chosen = [_WORDS[getattr(self, key)] for key in ("psnr", "ssim") if key in self.metrics]
        variants = f"{', '.join(chosen)}; " if chosen else ""
        treated = [word for word, done in (("clamped", self.clamp), ("rounded to 8 bits", self.round_8bit)) if done]
        if isinstance(self.overall, Mapping):
            weights = "data sets weighted " + ", ".join(f"{name} {weight:g}" for name, weight in self.overall.items())
        else:
            weights = self.overall
        return (
            f"{self.name}: {'; '.join(sizes)}; predictions {', '.join(treated) or 'as they come'}; "
            f"{variants}averages over {self.average}, overall over {weights}"
            + ("; reflections against mixture - transmission" if self.reflection_truth == "residual" else "")
            + (f"; {self.crop_border} pixels of border cut off" if self.crop_border else "")
        )


def score_image(
    score: ImageMetric,
    prediction: Tensor,
    truth: Tensor | None,
    mixture: Tensor,
    mask: Tensor | None = None,
) -> float | None:
    """One score of one image.

    Args:
        score: which.
        prediction: (1, 3, H, W), as :meth:`Protocol.prepare` returns it.
        truth: same shape; None where it is unknown.
        mixture: same shape, the untouched input; what blind scores look at besides.
        mask: (1, H, W) bool; needed by scores of regions.

    Returns:
        None where the image has no such score.
    """
    with torch.no_grad(), torch.autocast(prediction.device.type, enabled=False):
        if score.blind:
            value = score.per_image(prediction, mixture)
        elif truth is None:
            return None
        elif isinstance(score, RegionMetric):
            if mask is None:
                return None
            value = score.per_region(prediction, truth, mask)
        else:
            value = score.per_image(prediction, truth)
    return None if bool(value.isnan()) else float(value)
