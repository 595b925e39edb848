"""Evaluation protocols: complete definition of how pictures become scores; every attribute affects the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

import torch
from annotated_types import MinLen
from torch import Tensor

from reflectzoo.core.annotations import NotNegative, Weight
from reflectzoo.core.batch import LAYERS, Batch, Layer
from reflectzoo.core.settings import check_value
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.errors import UserError
from reflectzoo.metrics.images import ImageMetric, RegionMetric
from reflectzoo.metrics.known import metric_classes

FORMERLY: Mapping[str, Any] = {"crop_border": 0}
"""Attributes missing from the protocols of older results, with their values at that time."""

_WORDS = {
    "per_channel": "PSNR per colour channel",
    "pooled": "PSNR of all channels together",
    "uniform7": "SSIM under a uniform 7x7 window",
    "gaussian11": "SSIM under a Gaussian 11x11 window",
}


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol. The files in ``conf/protocol/`` name the paper or program that uses it.

    Attributes:
        name: name of the file, without its suffix.
        source: who uses this protocol, and our reference for that.
        resize: how mixtures and ground truth are resized before inference and scoring, see
            :class:`~reflectzoo.data.datasets.sizes.EvalSize`.
        resize_for: data set -> attributes of ``resize`` that differ there.
        clamp: clamp predictions to [0, 1] first.
        round_8bit: round predictions to the 256 values of an 8-bit picture.
        psnr: ``per_channel`` or ``pooled`` (:mod:`reflectzoo.metrics.functional`).
        ssim: ``uniform7`` (scikit-image's default) or ``gaussian11`` (Wang et al.).
        si: ``rgb`` or ``grey``, for SI and the scores within regions.
        average: mean within a data set: over ``images``, or over ``pixels``: PSNR is then computed from the mean error
            of all pixels of the set, and other scores are weighted by image size.
        overall: the average column: over all ``images``, so that large sets count more (the 494 of Location-aware
            SIRR), over ``sets`` with equal weights, or a mapping of data set -> weight (0 for those not named).
        reflection_truth: ground truth of the reflection: ``layer``, the photographed reflection, where there is one; or
            ``residual``, mixture - transmission, clamped to [0, 1] (YTMT's Table 2).
        layers: layers to score.
        metrics: scores in the order of the columns: keys of :func:`~reflectzoo.metrics.known.known_metrics`, or
            ``module.Class`` for your own. Scores within regions are skipped without ``masks``.
        crop_border: pixels cropped from each side of predictions and ground truth before scoring, as in the NTIRE
            challenges.

    Raises:
        UserError: for an invalid value.
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
        # Validate now, so that mistakes are reported before anything is scored.
        for name in ("", *self.resize_for):
            self.size_for(name)

    def size_for(self, dataset: str) -> EvalSize:
        """Resizing of the pictures of a data set; ``""`` for the default."""
        base = dataclasses.asdict(EvalSize.read(self.resize, "protocol.resize"))
        own = dict(self.resize_for.get(dataset) or {})
        if {"shorter", "longer", "size"} & {name for name, value in own.items() if value is not None}:
            base.update(shorter=None, longer=None, size=None)
        return EvalSize.read({**base, **own}, f"protocol.resize_for.{dataset}" if own else "protocol.resize")

    def prepare(self, prediction: Tensor) -> Tensor:
        """Clamp and round a prediction (B, 3, H, W) for scoring; the result is in double precision."""
        image = prediction.detach().float()
        if self.clamp:
            image = image.clamp(0, 1)
        # Round in single precision, as when writing files, so that halves are rounded in the same direction.
        return (image * 255).round().double() / 255 if self.round_8bit else image.double()

    def truth(self, layer: str, batch: Batch) -> Tensor | None:
        """Ground truth of a layer of one sample, (1, 3, H, W) in double precision; None if it is unknown."""
        if layer == "transmission":
            return batch["transmission"].double() if bool(batch["has_transmission"][0]) else None
        if self.reflection_truth == "residual":
            if not bool(batch["has_transmission"][0]):
                return None
            return (batch["mixture"].double() - batch["transmission"].double()).clamp(0, 1)
        return batch["reflection"].double() if bool(batch["has_reflection"][0]) else None

    def scores(self, masks: bool = False) -> dict[str, ImageMetric]:
        """Create the scores, by key.

        Args:
            masks: include scores within regions.

        Raises:
            UserError: if a score needs weights that are not available, or two scores have the same key.
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
        """Crop the border of an image (..., H, W); at least one pixel remains."""
        border = min(self.crop_border, (min(image.shape[-2:]) - 1) // 2)
        return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]

    def record(self) -> dict[str, Any]:
        """All attributes as plain values, for a result file."""
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
    """Compute one score of one image.

    Args:
        score: the metric.
        prediction: (1, 3, H, W), as returned by :meth:`Protocol.prepare`.
        truth: same shape; None if it is unknown.
        mixture: same shape, the untouched input; second input of blind scores.
        mask: (1, H, W) bool; required by scores within regions.

    Returns:
        The score; None if it is not defined for this image (NaN, no ground truth, or no mask).
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
