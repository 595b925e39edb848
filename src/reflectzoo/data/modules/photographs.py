"""``data=photographs``: your own photographs, without ground truth."""

from __future__ import annotations

from reflectzoo.data.datasets.base import note_folders
from reflectzoo.data.datasets.pairs import PairFiles
from reflectzoo.data.datasets.published_data import PublishedData
from reflectzoo.data.modules.pairs import FoundPairs, RealPairs
from reflectzoo.data.samples import Notice


class Photographs(RealPairs):
    """Every picture in a folder and its subfolders, as a test set for visual comparison, without scores.

    Args: see :class:`~reflectzoo.data.modules.pairs.RealPairs`.
    """

    published = PublishedData("photographs", "pictures, in the folder or below it", "your own photographs")

    def find(self) -> FoundPairs:
        """Find the pictures, named by their paths without suffixes; names that would coincide keep their suffixes."""
        top = self.published.folder(self.root)
        notices: list[Notice] = []
        paths = self.published.photographs(top, unopened=note_folders(notices, self.on_error))
        bare = [path.relative_to(top).with_suffix("").as_posix() for path in paths]
        pairs = [
            PairFiles(name if bare.count(name) == 1 else path.relative_to(top).as_posix(), path)
            for name, path in zip(bare, paths, strict=True)
        ]
        return FoundPairs([], {"photos": pairs}, notices)
