"""The score of a confidence map."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.composition import difference_mask
from reflectzoo.methods.location_aware.metrics import ConfidenceMetrics, confidence_auc, difference_auc
from reflectzoo.ops.colour import luminance


def layers(size: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    transmission, reflection = torch.rand(2, size, 3, 9, 12, generator=generator)
    return torch.rand(size, 1, 9, 12, generator=generator), transmission, reflection


def test_by_hand() -> None:
    """Pixels 2 and 3 are the reflection's; three of the four pairs stand in the right order."""
    reflection = torch.tensor([0.0, 0.2, 0.6, 0.8]).expand(1, 3, 1, 4)
    confidence = torch.tensor([0.1, 0.5, 0.4, 0.9]).view(1, 1, 1, 4)
    assert confidence_auc(confidence, torch.full_like(reflection, 0.5), reflection).item() == pytest.approx(0.75)


def test_difference_by_hand() -> None:
    """The right half differs by 0.25, and from 0.1 / 0.25 of a window on in it; an edge that moved does not count."""
    mixture = torch.full((1, 3, 20, 40), 0.5)
    truth = mixture.clone()
    truth[..., 20:] = 0.25
    truth[..., 5] = 0.0  # one column of nine: 0.056
    marked = torch.zeros(1, 1, 20, 40)
    marked[..., 20:] = 1  # five of nine columns: 0.14
    marked[..., 19] = 1  # four of nine: 0.11
    assert torch.equal(difference_mask(mixture, truth), marked)
    confidence = torch.rand(1, 1, 20, 40, generator=torch.Generator().manual_seed(0))
    expected = roc_auc_score(marked.flatten(), confidence.flatten())
    assert difference_auc(confidence, mixture, truth).item() == pytest.approx(expected, abs=1e-6)
    assert difference_auc(confidence, truth, truth).isnan().all()
    with pytest.raises(ValueError, match="confidence is"):
        difference_auc(confidence[..., 1:], truth, truth)


def test_against_scikit_learn() -> None:
    confidence, transmission, reflection = layers()
    found = confidence_auc(confidence, transmission, reflection)
    marks = luminance(reflection) > luminance(transmission)
    expected = [roc_auc_score(m.flatten(), c.flatten()) for m, c in zip(marks, confidence, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert confidence_auc(1 - confidence, transmission, reflection).tolist() == pytest.approx(
        [1 - each for each in expected], abs=1e-5
    )


def test_undecided_pictures_and_shapes() -> None:
    confidence, transmission, _ = layers()
    assert confidence_auc(confidence, transmission, 0 * transmission).isnan().all()
    with pytest.raises(ValueError, match="confidence is"):
        confidence_auc(confidence[..., 1:], transmission, transmission)


def test_which_pictures_count() -> None:
    """A real pair, and one whose transmission dominates everywhere, leave the mean as it is."""
    confidence, transmission, reflection = layers(3)
    reflection[1] = 0
    known = torch.tensor([True, True, False])
    names = ["a", "b", "c"]
    batch: Batch = {
        "mixture": transmission,
        "transmission": transmission,
        "reflection": reflection,
        "has_transmission": torch.tensor([True, True, True]),
        "has_reflection": known,
        "name": names,
        "dataset": names,
    }
    outputs: Outputs = {"transmission": transmission, "aux": {"confidence": [1 - confidence, confidence]}}
    metrics = ConfidenceMetrics()
    assert metrics.compute() == {}
    metrics.update({"transmission": transmission}, batch)
    assert metrics.compute() == {}, "without a map there is nothing to score"
    metrics.update(outputs, batch)
    expected = confidence_auc(confidence[:1], transmission[:1], reflection[:1])
    assert metrics.compute()["confidence_auc"].item() == pytest.approx(expected.item())
    assert "difference_auc" not in metrics.compute(), "these mixtures do not differ from their truth"
    mixture = transmission.clone()
    mixture[..., 8:] = 1
    metrics.update(outputs, {**batch, "mixture": mixture})
    expected = difference_auc(confidence, mixture, transmission)
    assert metrics.compute()["difference_auc"].item() == pytest.approx(expected.nanmean().item())
    metrics.reset()
    assert metrics.compute() == {}
