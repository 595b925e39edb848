"""Scoring of single pictures; each row is written as soon as it is scored."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from reflectzoo.core.batch import LAYERS, Batch, Outputs
from reflectzoo.data.datasets.pairs import SMALLEST_SCORED
from reflectzoo.data.images import find_images, read_rgb
from reflectzoo.drawing.panels import to_uint8
from reflectzoo.errors import TrainingError, UserError
from reflectzoo.evaluation.benchmark import EvaluationSet
from reflectzoo.evaluation.candidates import Candidate, InputCandidate, NetworkCandidate
from reflectzoo.evaluation.protocol import Protocol, score_image
from reflectzoo.evaluation.results import Key, Row, RowLog
from reflectzoo.metrics.functional import channel_errors
from reflectzoo.metrics.images import ImageMetric


class Masks:
    """Regions for SSIMr and SIr: pictures named like the benchmark's, in which bright pixels mark the region.

    A pixel belongs to the region if the largest of its three channels exceeds 127 of 255.

    Args:
        folder: with ``<set>/<image>.png``, or ``<image>.png`` for a benchmark of one set; any image format.
        sets: data sets of the benchmark.

    Raises:
        UserError: if the folder does not exist, or contains no mask for any picture.
    """

    def __init__(self, folder: str | Path, sets: Sequence[EvaluationSet]) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise UserError(f"masks={folder} is not a folder: give one with a picture of marked pixels for each image.")
        named = {
            path.relative_to(self.folder).with_suffix("").as_posix(): path
            for path in find_images(self.folder, recursive=True)
        }
        self.paths: dict[tuple[str, str], Path] = {}
        for each in sets:
            for picture in each.pictures:
                alone = named.get(picture.name) if len(sets) == 1 else None
                path = named.get(f"{each.name}/{picture.name}", alone)
                if path is not None:
                    self.paths[each.name, picture.name] = path
        if not self.paths:
            raise UserError(f"masks={folder} has no picture named like one of the benchmark: <set>/<image>.png.")

    def read(self, dataset: str, image: str, like: Tensor) -> Tensor | None:
        """Read the region of a picture, (1, H, W) bool, resized to an image (1, 3, H, W); None if there is no mask."""
        path = self.paths.get((dataset, image))
        if path is None:
            return None
        marked = Image.fromarray(read_rgb(path).max(axis=2))
        resized = marked.resize((like.shape[-1], like.shape[-2]), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(resized) > 127)[None].to(like.device)


class Scorer(pl.LightningModule):
    """Scores every entry on every picture of the loaders, for ``Trainer.test``.

    Args:
        entries: to be scored.
        sets: in the order of the loaders.
        protocol: defines the scores.
        scores: by key, see :meth:`Protocol.scores`.
        done: keys (entry, set, image) of existing rows, which are skipped.
        folder: run folder.
        masks: regions for SSIMr and SIr; None without.
        save_pictures: save predictions, mixtures and ground truth as PNG files.
    """

    def __init__(
        self,
        entries: Sequence[Candidate],
        sets: Sequence[EvaluationSet],
        protocol: Protocol,
        scores: Mapping[str, ImageMetric],
        done: Container[Key],
        folder: Path,
        masks: Masks | None = None,
        save_pictures: bool = False,
    ) -> None:
        super().__init__()
        self.entries = entries
        self.sets = sets
        self.protocol = protocol
        self.done = done
        self.folder = folder
        self.masks = masks
        self.save_pictures = save_pictures
        # As submodules, so that the Trainer moves them to its device.
        self.networks = nn.ModuleList(entry.module for entry in entries if isinstance(entry, NetworkCandidate))
        self.scores = nn.ModuleDict(scores)
        self._log: RowLog | None = None

    def on_test_start(self) -> None:
        """Open this process's log of rows."""
        self._log = RowLog(self.folder, self.global_rank)

    def on_test_end(self) -> None:
        """Close the log."""
        self.close()

    def close(self) -> None:
        """Sync the log to disk and close it; does nothing if it is closed."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one picture for every entry without a row for it.

        Raises:
            UserError: if the picture is too small, or an entry returns another size.
            TrainingError: if a network runs out of memory, or an entry returns non-finite values.
        """
        dataset, image = self.sets[dataloader_idx].name, batch["name"][0]
        height, width = batch["mixture"].shape[-2:]
        if min(height, width) < SMALLEST_SCORED:
            raise UserError(
                f"'{image}' of {dataset} is {width}x{height} after resizing, too small to be scored: choose another "
                "protocol.resize."
            )
        mask = self.masks.read(dataset, image, batch["mixture"]) if self.masks is not None else None
        truths: dict[str, Tensor | None] = {layer: self.protocol.truth(layer, batch) for layer in self.protocol.layers}
        for entry in self.entries:
            if (entry.name, dataset, image) in self.done or not entry.has(dataset, image):
                continue
            outputs, seconds = self._outputs(entry, batch, dataset)
            if outputs is not None:
                row = self._row(entry, batch, dataset, outputs, truths, mask)
                row["seconds"] = seconds
                assert self._log is not None
                self._log.append(row)

    def _outputs(self, entry: Candidate, batch: Batch, dataset: str) -> tuple[Outputs | None, float]:
        began = time.perf_counter()
        given = batch
        if isinstance(entry, NetworkCandidate):
            # With trainer.precision=bf16-true, only the network's input is converted; the ground truth keeps its type.
            given = cast(Batch, self.trainer.precision_plugin.convert_input(cast(Any, dict(batch))))
        try:
            outputs = entry.outputs(given, dataset)
        except torch.OutOfMemoryError as error:
            height, width = batch["mixture"].shape[-2:]
            raise TrainingError(
                f"{entry.name} ran out of memory on '{batch['name'][0]}' of {dataset} ({width}x{height}): resume with "
                f"trainer.accelerator=cpu resume={self.folder}, or choose a protocol that scores smaller pictures."
            ) from error
        if batch["mixture"].is_cuda:
            torch.cuda.synchronize(batch["mixture"].device)
        return outputs, time.perf_counter() - began

    def _row(
        self,
        entry: Candidate,
        batch: Batch,
        dataset: str,
        outputs: Outputs,
        truths: dict[str, Tensor | None],
        mask: Tensor | None,
    ) -> Row:
        image = batch["name"][0]
        height, width = batch["mixture"].shape[-2:]
        source = batch["source_size"][0].tolist() if "source_size" in batch else [None, None]
        row: Row = {
            "entry": entry.name,
            "set": dataset,
            "image": image,
            "height": height,
            "width": width,
            "source_height": source[0],
            "source_width": source[1],
            "tags": dict(batch["tags"][0]) if "tags" in batch else {},
            "transmission": None,
            "reflection": None,
            "errors": {},
            "pictures": {},
            "seconds": 0.0,
        }
        for layer in LAYERS:
            found, truth = outputs.get(layer), truths.get(layer)
            if found is None or (truth is None and not self._blind(layer)):
                continue
            prepared = self.protocol.prepare(found)
            wanted = batch["mixture"].shape if truth is None else truth.shape
            if prepared.shape != wanted:
                raise UserError(
                    f"{entry.name} returns {tuple(prepared.shape[-2:])} pixels for '{image}' of {dataset}, which has "
                    f"{tuple(wanted[-2:])}."
                )
            if not bool(prepared.isfinite().all()):
                raise TrainingError(
                    f"{entry.name} returns non-finite values for '{image}' of {dataset}: its weights are broken, or "
                    "trainer.precision is too low."
                )
            row[layer] = self._scored(layer, prepared, truth, batch["mixture"], mask)  # type: ignore[literal-required]
            if truth is not None:
                row["errors"][layer] = channel_errors(self.protocol.cut(prepared), self.protocol.cut(truth))[0].tolist()
        if self.save_pictures:
            row["pictures"] = self._save(entry, batch, dataset, outputs, truths)
        return row

    def _blind(self, layer: str) -> bool:
        """Whether a layer can be scored without ground truth."""
        return (
            layer == "transmission"
            and layer in self.protocol.layers
            and any(cast(ImageMetric, score).blind for score in self.scores.values())
        )

    def _scored(
        self, layer: str, prepared: Tensor, truth: Tensor | None, mixture: Tensor, mask: Tensor | None
    ) -> dict[str, float | None]:
        """Compute all scores of a layer; blind ones only for the transmission, since they assess photographs."""
        cut = self.protocol.cut
        given = (
            cut(prepared),
            None if truth is None else cut(truth),
            cut(self.protocol.prepare(mixture)),
            None if mask is None else cut(mask),
        )
        return {
            name: score_image(cast(ImageMetric, score), *given)
            for name, score in self.scores.items()
            if layer == "transmission" or not cast(ImageMetric, score).blind
        }

    def _save(
        self, entry: Candidate, batch: Batch, dataset: str, outputs: Outputs, truths: dict[str, Tensor | None]
    ) -> dict[str, str]:
        image = batch["name"][0]
        if isinstance(entry, InputCandidate):
            layers = {"mixture": (entry.name, "mixture", batch["mixture"])}
            for layer, truth in truths.items():
                if truth is not None:
                    layers[f"truth_{layer}"] = ("truth", layer, truth)
        else:
            layers = {layer: (entry.name, layer, outputs[layer]) for layer in LAYERS if layer in outputs}
        saved = {}
        for what, (owner, layer, tensor) in layers.items():
            relative = f"pictures/{owner}/{dataset}/{image}_{layer}.png"
            path = self.folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(to_uint8(tensor[0])).save(path)
            saved[what] = relative
        return saved
