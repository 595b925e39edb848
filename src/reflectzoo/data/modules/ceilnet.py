"""``data=ceilnet``: the triplets of CEILNet and its 45 photographs without ground truth."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from reflectzoo.core.annotations import Share
from reflectzoo.data.datasets.base import note_folders
from reflectzoo.data.datasets.pairs import PairFiles, hold_out
from reflectzoo.data.datasets.published_data import PublishedData
from reflectzoo.data.modules.pairs import FoundPairs, RealPairs
from reflectzoo.data.samples import Notice
from reflectzoo.errors import UserError

_NAME = re.compile(r"^(?P<stem>.+)-(?P<role>input|label1|label2)$", re.IGNORECASE)


class CEILNetPairs(RealPairs):
    """Files named ``*-input``, ``*-label1`` (transmission) and ``*-label2`` (reflection), anywhere below a folder.

    Fan et al., "A Generic Deep Architecture for Single Image Reflection Removal and Image Smoothing", ICCV 2017.
    Triplets form the test set ``ceilnet``; inputs without labels form the test set ``real45``, for visual comparison
    without scores.

    Args:
        root: folder of the files.
        test_share: share of the triplets for the test, selected by a hash of their names; 1 uses all, as the papers do.
        kwargs: see :class:`RealPairs`.
    """

    published = PublishedData(
        "ceilnet",
        "pictures called NAME-input, NAME-label1 and NAME-label2, or NAME-input alone, in the folder or below it",
        "Fan et al., ICCV 2017, 100 synthetic test triplets and 45 photographs, for research only, at "
        "https://github.com/fqnchina/CEILNet",
    )

    def __init__(self, root: str | os.PathLike[str] | None = None, test_share: Share = 1.0, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.test_share = test_share

    def find(self) -> FoundPairs:
        """Find triplets, and inputs without labels.

        Raises:
            UserError: if there are no such files; with ``on_error="raise"``, also for an incomplete triplet.
        """
        top = self.published.folder(self.root)
        groups: dict[str, dict[str, Path]] = {}
        notices: list[Notice] = []
        for path in self.published.photographs(top, unopened=note_folders(notices, self.on_error)):
            match = _NAME.match(path.stem)
            if match:
                name = path.relative_to(top).with_name(match["stem"]).as_posix()
                groups.setdefault(name, {})[match["role"].lower()] = path
        if not groups:
            raise self.published.not_found(top)
        triplets, unlabelled = [], []
        for name, files in groups.items():
            if "input" in files and "label1" in files:
                triplets.append(PairFiles(name, files["input"], files["label1"], files.get("label2")))
            elif set(files) == {"input"}:
                unlabelled.append(PairFiles(name, files["input"]))
            else:
                path = next(iter(files.values()))
                missing = "-input" if "input" not in files else "-label1"
                sentence = f"'{path}' has no '{Path(name).name}{missing}' beside it and is skipped."
                if self.on_error == "raise":
                    raise UserError(sentence)
                notices.append(Notice("missing", str(path), sentence))
        train, tested = ([], triplets) if self.test_share == 1 else hold_out(triplets, self.test_share)
        test = {name: pairs for name, pairs in (("ceilnet", tested), ("real45", unlabelled)) if pairs}
        return FoundPairs(train, test, notices)
