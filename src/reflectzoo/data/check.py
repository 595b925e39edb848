"""Check a data set without training: count and read its files, and draw some samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reflectzoo.core.batch import Batch
from reflectzoo.data.batching import collate
from reflectzoo.data.datasets.base import KeyedDataset
from reflectzoo.data.images import UnreadableImage, picture_size, read_rgb
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Failed, Notice
from reflectzoo.drawing.panels import PanelRow, draw_separations
from reflectzoo.errors import UserError

_NAMED = 10


@dataclass
class SetSummary:
    """Summary of one data set of one split.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        name: name of the data set.
        samples: number of samples per epoch, or in the evaluation.
        unit: noun for the samples, in the plural.
        pictures: number of files.
        smallest: width and height of the picture with the fewest pixels; None if none can be read.
        largest: likewise, with the most pixels.
        unreadable: a sentence for each file that cannot be read.
    """

    split: str
    name: str
    samples: int
    unit: str
    pictures: int
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    unreadable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Format as one line."""
        line = f"{self.split:<6}{self.name:<12}{self.samples} {self.unit} from {self.pictures} pictures"
        if self.smallest is not None and self.largest is not None:
            sizes = [f"{width}x{height}" for width, height in (self.smallest, self.largest)]
            line += f", {sizes[0]}" + (f" to {sizes[1]}" if sizes[1] != sizes[0] else "")
        return line + (f", {len(self.unreadable)} unreadable" if self.unreadable else "")


@dataclass
class DataSummary:
    """Summary of a data module.

    Attributes:
        sets: summaries of the data sets that were found.
        without: reasons for missing splits, by split.
        left_out: a sentence for each file that was skipped while searching.
        shared: pictures that are in the training set and in another split.
        remarks: further sentences, such as a number of pairs that differs from the published one.
    """

    sets: list[SetSummary] = field(default_factory=list)
    without: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    shared: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def unreadable(self) -> list[str]:
        """A sentence for each file that cannot be read or was skipped, without duplicates."""
        return list(dict.fromkeys([*self.left_out, *(each for one in self.sets for each in one.unreadable)]))

    def __str__(self) -> str:
        """Format as several lines."""
        lines = [str(each) for each in self.sets]
        lines += [f"{split:<6}none: {why}" for split, why in self.without.items()]
        lines += self.remarks
        if self.shared:
            lines.append(f"{len(self.shared)} pictures are in more than one split, the first being '{self.shared[0]}'.")
        troubles = self.unreadable
        if troubles:
            lines.append(f"{len(troubles)} files or pairs cannot be used:")
            lines += [f"  {each}" for each in troubles[:_NAMED]]
            if len(troubles) > _NAMED:
                lines.append(f"  and {len(troubles) - _NAMED} more.")
        else:
            lines.append("Every picture can be read.")
        return "\n".join(lines)


def find_sets(module: ReflectionDataModule) -> tuple[dict[str, Mapping[str, KeyedDataset]], DataSummary]:
    """Find the data sets of every split of a module.

    Returns:
        The data sets by split and name, and a summary with the reasons for missing splits.

    Raises:
        UserError: if there is no split at all.
        UnreadableImage: for an unreadable file, with ``data.on_error=raise``.
    """
    summary = DataSummary()

    def hear(notice: Notice) -> None:
        (summary.remarks if notice.kind == "count" else summary.left_out).append(notice.sentence)

    module.listener = hear
    found: dict[str, Mapping[str, KeyedDataset]] = {}
    refused: UserError | None = None
    for split, get in (
        ("train", lambda: {"": module.train_set()}),
        ("val", module.eval_sets),
        ("test", module.test_sets),
    ):
        try:
            found[split] = get()
        except UnreadableImage:
            raise  # data.on_error=raise
        except UserError as error:
            refused = error  # the last one, of the test split, is raised: a benchmark has no other split
            summary.without[split] = str(error)
    if not found and refused is not None:
        raise refused
    files = {split: [data.pictures() for data in sets.values()] for split, sets in found.items()}
    if "val" in files and files["val"] == files.get("test"):
        del found["val"]
        summary.without["val"] = "nothing is held out, so validation would use the test pictures."
    return found, summary


def check(module: ReflectionDataModule) -> tuple[DataSummary, Image.Image]:
    """Read every picture of a data module and draw some of its samples.

    Returns:
        A summary, and a contact sheet.

    Raises:
        UserError: if no split or no sample can be used.
    """
    found, summary = find_sets(module)
    whose: dict[Path, set[str]] = {}
    known: dict[Path, tuple[int, int] | str] = {}
    for split, sets in found.items():
        for name, data in sets.items():
            pictures = data.pictures()
            one = SetSummary(split, name, len(data), data.unit, len(pictures))
            sizes = []
            for path in pictures:
                whose.setdefault(path.resolve(), set()).add(split)
                if path not in known:
                    known[path] = _looked_at(path)
                size = known[path]
                if isinstance(size, str):
                    one.unreadable.append(size)
                else:
                    sizes.append(size)
            if sizes:
                one.smallest = min(sizes, key=lambda each: each[0] * each[1])
                one.largest = max(sizes, key=lambda each: each[0] * each[1])
            summary.sets.append(one)
    summary.shared = sorted(path for path, splits in whose.items() if "train" in splits and len(splits) > 1)
    return summary, contact_sheet(module, found)


def contact_sheet(
    module: ReflectionDataModule, found: Mapping[str, Mapping[str, KeyedDataset]], rows: int = 3
) -> Image.Image:
    """Draw some samples of every data set with their layers, frames and tags.

    Args:
        module: completes the samples.
        found: data sets by split and name.
        rows: number of samples of each data set.

    Raises:
        UserError: if no sample can be made.
    """
    drawn = []
    for split, sets in found.items():
        for name, data in sets.items():
            for index in np.linspace(0, len(data) - 1, min(rows, len(data))).round().astype(int).tolist():
                try:
                    batch = _one(module, data, SampleKey(0, index, index))
                except UserError:
                    continue  # the summary names the file
                title = " ".join(part for part in (split, name) if part)
                drawn.append(_row(batch, title))
    if not drawn:
        raise UserError("No sample can be made from these pictures.")
    return draw_separations(drawn)


def _one(module: ReflectionDataModule, data: KeyedDataset, key: SampleKey) -> Batch:
    raw = collate([data[key]])
    if isinstance(raw, Failed):
        raise raw.error
    module.draw(raw)
    return module.complete_batch(raw)


def _row(batch: Any, title: str) -> PanelRow:
    images = {"mixture": batch["mixture"][0]}
    for layer, flag in (
        ("transmission", "has_transmission"),
        ("reflection", "has_reflection"),
        ("unaligned_transmission", "has_unaligned"),
    ):
        if flag in batch and bool(batch[flag][0]):
            images[layer.replace("_", " ")] = batch[layer][0]
    if "frames" in batch:
        for number, frame in enumerate(batch["frames"][0]):
            images[f"frame {number + 1}"] = frame
    height, width = batch["mixture"].shape[-2:]
    caption = [f"{title}: {batch['name'][0]}", f"{width}x{height}"]
    if batch.get("protocol"):
        caption.append(batch["protocol"][0])
    if batch.get("tags"):
        caption += [f"{key} {value}" for key, value in batch["tags"][0].items()]
    return PanelRow(images, ", ".join(caption))


def _looked_at(path: Path) -> tuple[int, int] | str:
    """Width and height of a picture, or a sentence on why it cannot be read."""
    try:
        read_rgb(path, shorter=1)
        return picture_size(path)
    except UnreadableImage as error:
        return str(error)


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Save a contact sheet.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"The contact sheet cannot be written to sheet={path}: {reason}.") from None
