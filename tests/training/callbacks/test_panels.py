"""Pictures of what iterations made: any list of images in aux, nothing else."""

from __future__ import annotations

import torch

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.drawing.panels import draw_separations
from reflectzoo.drawing.rows import iteration_rows


def batch(has_reflection: bool = False) -> Batch:
    image = torch.rand(2, 3, 12, 20)
    return {
        "mixture": image,
        "transmission": 0.5 * image,
        "reflection": 0.25 * image,
        "has_transmission": torch.tensor([True, True]),
        "has_reflection": torch.tensor([False, has_reflection]),
        "name": ["first", "second"],
        "dataset": ["d", "d"],
    }


def outputs() -> Outputs:
    aux = {
        "transmission": [torch.full((2, 3, 12, 20), 0.1 * n) for n in (1, 2)],
        "reflection": [torch.zeros(2, 3, 12, 20)] * 2,
        "confidence": [torch.ones(2, 1, 12, 20)] * 2,
        "half": [torch.ones(2, 3, 6, 10)] * 2,  # not of the input's size
        "gradient": torch.ones(2, 1, 12, 20),  # not a list
        "flows": [torch.ones(2, 2, 12, 20)],  # not an image
        "names": ["a"],
    }
    return {"transmission": aux["transmission"][-1], "aux": aux}


def test_one_row_for_each_list_of_images() -> None:
    rows = iteration_rows(outputs(), batch(has_reflection=True), 1)
    assert [row.caption for row in rows] == ["transmission of second", "reflection of second", "confidence of second"]
    titles = ["input", "iteration 1", "iteration 2"]
    assert [list(row.images) for row in rows] == [[*titles, "truth"], [*titles, "truth"], titles]
    assert rows[0].images["iteration 2"].unique().tolist() == torch.tensor([0.2]).tolist()
    assert rows[2].images["iteration 1"].shape == (3, 12, 20)
    assert draw_separations(rows).width == 4 * 232 + 8


def test_unknown_truth_is_left_out() -> None:
    rows = iteration_rows(outputs(), batch(), 0)
    assert "truth" in rows[0].images
    assert "truth" not in rows[1].images


def test_other_networks_have_no_such_picture() -> None:
    assert iteration_rows({"transmission": torch.zeros(2, 3, 12, 20)}, batch(), 0) == []
    assert iteration_rows({"transmission": torch.zeros(2, 3, 12, 20), "aux": {"stages": []}}, batch(), 0) == []
