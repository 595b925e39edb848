"""Result pictures for W&B, TensorBoard and the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.drawing.panels import PanelRow, draw_separations
from reflectzoo.drawing.rows import iteration_rows, separation_row
from reflectzoo.training.module import ReflectionModule


class ImagePanels(pl.Callback):
    """Draws input, predicted layers and ground truth of the first photographs of each evaluation set.

    After each validation the picture replaces ``<folder>/val_<set>.png`` and is logged to W&B and TensorBoard; after
    the test it is ``<folder>/test_<set>.png``. If the ``aux`` of a network holds lists of images of the input's size
    (one image per iteration), they are also drawn side by side in ``<folder>/<stage>_<set>_iterations.png``.

    Args:
        folder: output folder.
        images: number of photographs per set.
        every_n_epochs: interval between drawn validations, in epochs.
    """

    def __init__(self, folder: str, images: int = 4, every_n_epochs: int = 1) -> None:
        self.folder = Path(folder)
        self.images = images
        self.every_n_epochs = every_n_epochs
        self._rows: dict[int, list[PanelRow]] = {}
        self._iterations: dict[int, list[PanelRow]] = {}
        self._names: dict[int, list[str]] = {}

    def _collect(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        rows = self._rows.setdefault(dataloader_idx, [])
        for index in range(min(len(batch["name"]), self.images - len(rows))):
            rows.append(separation_row(cast(Outputs, outputs), batch, index))
            self._names.setdefault(dataloader_idx, []).append(batch["name"][index])
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
        """Draw the collected photographs, then clear them."""
        self._draw("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the collected photographs, then clear them."""
        self._draw("test", trainer, pl_module)

    def _draw(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = cast(ReflectionModule, pl_module).eval_names
        for index, rows in self._rows.items():
            self.folder.mkdir(parents=True, exist_ok=True)
            for kind, drawn in (("", rows), ("_iterations", self._iterations.get(index))):
                if drawn:
                    picture = draw_separations(drawn)
                    # Light compression takes a third of the time, and the next validation replaces the file.
                    picture.save(self.folder / f"{stage}_{names[index]}{kind}.png", compress_level=1)
                    # The same caption in every epoch, so that W&B lines them up; the picture shows the scores.
                    _send(picture, f"{stage}/{names[index]}{kind}", ", ".join(self._names[index]), trainer)
        self._rows, self._iterations, self._names = {}, {}, {}


def _send(picture: Image.Image, key: str, caption: str, trainer: pl.Trainer) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"panels/{key}", [picture], caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"panels/{key}", np.asarray(picture), trainer.global_step, dataformats="HWC")
