"""Pictures of what the network does, to every logger and into the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from reflectzoo.callbacks.motion import motion_images
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.core.module import ReflectionModule
from reflectzoo.pictures import Separation, draw_separations


class ImagePanels(pl.Callback):
    """Draws input, layers and truth of the first photographs of every evaluation set.

    After each validation the picture replaces ``<folder>/val_<set>.png`` and goes to W&B and TensorBoard; after the
    test it is ``<folder>/test_<set>.png``. A network whose ``aux`` holds lists of images of the input's size (what each
    of its iterations made of it) also gets ``<folder>/val_<set>_iterations.png``, where they stand side by side.

    Args:
        folder: where the pictures go.
        images: how many photographs a set shows.
        every_n_epochs: how often validation is drawn.
    """

    def __init__(self, folder: str, images: int = 4, every_n_epochs: int = 1) -> None:
        self.folder = Path(folder)
        self.images = images
        self.every_n_epochs = every_n_epochs
        self._rows: dict[int, list[Separation]] = {}
        self._iterations: dict[int, list[Separation]] = {}

    def _collect(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        rows = self._rows.setdefault(dataloader_idx, [])
        for index in range(min(len(batch["name"]), self.images - len(rows))):
            rows.append(separation_row(cast(Outputs, outputs), batch, index))
            self._iterations.setdefault(dataloader_idx, []).extend(iteration_rows(outputs, batch, index))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first photographs."""
        if trainer.is_global_zero and trainer.current_epoch % self.every_n_epochs == 0:
            self._collect(outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first photographs."""
        if trainer.is_global_zero:
            self._collect(outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw them."""
        self._draw("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw them."""
        self._draw("test", trainer, pl_module)

    def _draw(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = cast(ReflectionModule, pl_module).eval_names
        for index, rows in self._rows.items():
            self.folder.mkdir(parents=True, exist_ok=True)
            for kind, drawn in (("", rows), ("_iterations", self._iterations.get(index))):
                if drawn:
                    picture = draw_separations(drawn)
                    picture.save(self.folder / f"{stage}_{names[index]}{kind}.png")
                    _send(picture, f"{stage}/{names[index]}{kind}", trainer)
        self._rows, self._iterations = {}, {}


def separation_row(outputs: Outputs, batch: Batch, index: int) -> Separation:
    """One sample of a batch as a row of a picture, with its PSNR beneath.

    Args:
        outputs: of the network on ``batch``.
        batch: with the mixture and whatever truth is known.
        index: which sample.
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
    return Separation({key: image.detach().float().cpu() for key, image in images.items()}, caption)


def iteration_rows(outputs: Outputs, batch: Batch, index: int) -> list[Separation]:
    """What every iteration made of one sample, one row for each list in ``aux`` of images as large as the mixture.

    Args:
        outputs: of the network on ``batch``. Images of one channel are drawn grey, 1 white.
        batch: with the mixture and whatever truth is known.
        index: which sample.

    Returns:
        Rows with the input, the iterations in order and, for a layer whose truth is known, the truth; none for a
        network without such lists.
    """
    mixture = batch["mixture"]
    rows: list[Separation] = []
    for name, images in (outputs.get("aux") or {}).items():
        if not (isinstance(images, list) and images and all(_is_like(image, mixture) for image in images)):
            continue
        row = {"input": mixture[index]}
        row |= {f"iteration {number}": image[index].expand(3, -1, -1) for number, image in enumerate(images, start=1)}
        if name in ("transmission", "reflection") and bool(cast(Any, batch)[f"has_{name}"][index]):
            row["truth"] = cast(Any, batch)[name][index]
        rows.append(
            Separation(
                {key: image.detach().float().cpu() for key, image in row.items()}, f"{name} of {batch['name'][index]}"
            )
        )
    return rows


def _is_like(image: Any, mixture: Tensor) -> bool:
    """Whether something is a batch of pictures, in colour or grey, as many and as large as the mixtures."""
    if not isinstance(image, Tensor) or image.ndim != 4:
        return False
    size, channels, *sides = image.shape
    return channels in (1, 3) and [size, *sides] == [len(mixture), *mixture.shape[-2:]]


def _send(picture: Image.Image, key: str, trainer: pl.Trainer) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"panels/{key}", [picture])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"panels/{key}", np.asarray(picture), trainer.global_step, dataformats="HWC")
