"""Each fault once, always the same way; ``python -m tests.faults`` tries them at random."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.cases import FAULTS, Place
from tests.faults.children import preload


@pytest.mark.slow
@pytest.mark.timeout(1800)  # they are waited for on busy machines as well
@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, tmp_path: Path) -> None:
    preload()
    place = Place(tmp_path, random.Random(name))
    try:
        FAULTS[name](place)
    except Exception:
        print("\n".join(place.told))
        raise
