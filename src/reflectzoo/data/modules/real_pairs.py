"""Established data sets of real pairs: Zhang's, Nature from IBCLN, and the unaligned pairs from ERRNet."""

from __future__ import annotations

import re
from typing import Any

from reflectzoo.core.annotations import NotNegative
from reflectzoo.data.datasets.pairs import PairFiles
from reflectzoo.data.datasets.published_data import PublishedData
from reflectzoo.data.modules.pairs import SplitPairs

REAL20 = frozenset({3, 4, 9, 12, 15, 22, 23, 25, 29, 39, 46, 47, 58, 86, 87, 89, 93, 103, 107, 110})
"""Numbers of the 20 test pictures among the 110, from the web page of the authors' program."""


class ZhangReal(SplitPairs):
    """``data=zhang``: 90 pairs for training and the 20 pairs of Real20.

    Zhang et al., "Single Image Reflection Separation with Perceptual Losses", CVPR 2018. All 110 pairs may be in one
    folder (the authors' numbers identify Real20) or in two, as in the programs of YTMT and ERRNet. The reflection is
    unknown. Args: see :class:`SplitPairs`.
    """

    published = PublishedData(
        "zhang",
        "blended/ and transmission_layer/ with the authors' 110 numbered pairs, or two such folders, train/ and test/ "
        "(real_train/ and real20/ will do)",
        "Zhang et al., CVPR 2018, 90 training and 20 test pairs, terms as stated at "
        "https://github.com/ceciliavision/perceptual-reflection-removal",
    )
    train_folders = ("real_train", "train/real", "train", "real90", "real89", "real")
    test_folders = ("real20_420", "real20", "test/real20_420", "test/real20", "test420/real20_420", "real_test", "test")
    test_name = "real20"

    def is_test(self, pair: PairFiles) -> bool:
        """Whether the number in the name is one of :data:`REAL20`."""
        number = re.search(r"\d+", pair.name)
        return number is not None and int(number.group()) in REAL20


class Nature(SplitPairs):
    """``data=nature``: 200 pairs for training and 20 for the test, from IBCLN.

    Li et al., "Single Image Reflection Removal through Cascaded Refinement", CVPR 2020. The reflection is unknown.
    Args: see :class:`SplitPairs`.
    """

    published = PublishedData(
        "nature",
        "train/ and test/ (train/nature/ and test/Nature/ will do), each with blended/ and transmission_layer/",
        "Li et al., IBCLN, CVPR 2020, 200 training and 20 test pairs, linked from https://github.com/JHL-HUST/IBCLN, "
        "whose program is under BSD-2-Clause",
    )
    train_folders = ("train/nature", "nature_train", "train")
    test_folders = ("test/Nature", "nature_test", "Nature20", "test", "Nature")
    test_name = "nature"


class Unaligned(SplitPairs):
    """``data=unaligned``: pairs whose transmission was taken from a slightly different position, from ERRNet.

    Wei et al., "Single Image Reflection Removal Exploiting Misaligned Training Data and Network Enhancements", CVPR
    2019. Such a transmission must not be compared pixel by pixel: it is ``unaligned_transmission`` in a batch, and
    ``has_transmission`` is False.

    Args:
        shift: shift transmissions further by a random number of up to this many pixels along each axis, an option of
            the authors' program.
        kwargs: see :class:`SplitPairs`.
    """

    published = PublishedData(
        "unaligned",
        "blended/ and transmission_layer/ with pictures of the same names, in the folder itself (unaligned_train250/) "
        "or in train/ and test/",
        "Wei et al., ERRNet, CVPR 2019, 450 pairs of which 250 are for training, linked from "
        "https://github.com/Vandermode/ERRNet, whose program is under the MIT licence",
    )
    train_folders = ("unaligned_train250", "Dataset/DSLR/unaligned_train250", "DSLR/unaligned_train250", "train")
    test_folders = ("unaligned_test", "unaligned_test200", "test")
    test_name = "unaligned"
    aligned = False

    def __init__(self, *args: Any, shift: NotNegative = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = shift
