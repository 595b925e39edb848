"""Rows of pictures that show the outputs of a network for a sample."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.drawing.motion import motion_images
from reflectzoo.drawing.panels import PanelRow


def separation_row(outputs: Outputs, batch: Batch, index: int) -> PanelRow:
    """Create a row for one sample of a batch, with the PSNR in its caption if the transmission is known.

    Args:
        outputs: outputs of the network for ``batch``.
        batch: with the mixture, and the ground truth as far as it is known.
        index: index of the sample.
    """
    images = {"input": batch["mixture"][index], "transmission": outputs["transmission"][index]}
    if "reflection" in outputs:
        images["reflection"] = outputs["reflection"][index]
    caption = batch["name"][index]
    if bool(batch["has_transmission"][index]):
        truth = images["true transmission"] = batch["transmission"][index]
        before, after = (
            float(peak_signal_noise_ratio(images[key].detach().float().clamp(0, 1), truth, data_range=1.0))
            for key in ("input", "transmission")
        )
        caption += f": input {before:.1f} dB, output {after:.1f} dB"
    if bool(batch["has_reflection"][index]):
        images["true reflection"] = batch["reflection"][index]
    motions, key = motion_images(outputs, batch, index)
    images.update(motions)
    caption += f"; {key}" if key else ""
    return PanelRow({key: image.detach().float().cpu() for key, image in images.items()}, caption)


def iteration_rows(outputs: Outputs, batch: Batch, index: int) -> list[PanelRow]:
    """Create rows with the iterations for one sample, one row per list in ``aux`` of images as large as the mixture.

    Args:
        outputs: outputs of the network for ``batch``. Images of one channel are drawn in grey, 1 as white.
        batch: with the mixture, and the ground truth as far as it is known.
        index: index of the sample.

    Returns:
        Rows with the input, the iterations in order and, for a layer whose ground truth is known, the ground truth;
        empty for a network without such lists.
    """
    mixture = batch["mixture"]
    rows: list[PanelRow] = []
    for name, images in (outputs.get("aux") or {}).items():
        if not (isinstance(images, list) and images and all(_is_like(image, mixture) for image in images)):
            continue
        row = {"input": mixture[index]}
        row |= {f"iteration {number}": image[index].expand(3, -1, -1) for number, image in enumerate(images, start=1)}
        if name in ("transmission", "reflection") and bool(cast(Any, batch)[f"has_{name}"][index]):
            row["truth"] = cast(Any, batch)[name][index]
        rows.append(
            PanelRow(
                {key: image.detach().float().cpu() for key, image in row.items()}, f"{name} of {batch['name'][index]}"
            )
        )
    return rows


def _is_like(image: Any, mixture: Tensor) -> bool:
    """Whether an object is a batch of colour or grey images with the number and size of the mixtures."""
    if not isinstance(image, Tensor) or image.ndim != 4:
        return False
    size, channels, *sides = image.shape
    return channels in (1, 3) and [size, *sides] == [len(mixture), *mixture.shape[-2:]]
