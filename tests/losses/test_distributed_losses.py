"""Two processes with half a batch each must learn what one process with the whole batch learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.conftest import in_two_processes
from torch import Tensor, nn

from reflectzoo.losses import AdversarialLoss, ExclusionLoss, PixelLoss
from reflectzoo.ops.distributed import masked_batch_mean, masked_mean

MASKS = {"uneven": [True, True, False, True], "one side only": [False, False, True, True], "nobody": [False] * 4}
TERMS = ("exclusion", "rasgan", "pixel", "discriminator", "smaller candidate")


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 3, 1, 1, generator=torch.Generator().manual_seed(1)))

    def forward(self, mixture: Tensor) -> dict[str, Tensor]:
        t, r = torch.sigmoid(torch.nn.functional.conv2d(mixture, self.mix)).chunk(2, dim=1)
        return {"transmission": t, "reflection": r}


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(3 * torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(2)))

    def forward(self, image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image, self.weight, stride=3)


def gradients(samples: slice, mask: list[bool]) -> dict[str, tuple[Tensor, Tensor]]:
    """Value of each term for these samples of the batch, and the gradient of what it trains."""
    generator = torch.Generator().manual_seed(0)
    # Samples of very different contrast, so that a mean of per-process roots is far from the root of the mean.
    contrast = torch.tensor([1.0, 0.3, 0.05, 2.0]).view(-1, 1, 1, 1)
    mixture, transmission, reflection = (contrast * torch.rand(4, 3, 8, 8, generator=generator) for _ in range(3))
    known, names = torch.tensor(mask)[samples], ["x"] * 4
    batch = {
        "mixture": mixture[samples],
        "transmission": transmission[samples],
        "reflection": reflection[samples],
        "has_transmission": known,
        "has_reflection": known,
        "name": names[samples],
        "dataset": names[samples],
    }
    net, judge = TwoLayers(), Judge()
    adversarial = AdversarialLoss(judge, candidates=[["transmission"], ["transmission", "reflection"]])
    results = {}
    for name in TERMS:
        outputs = net(batch["mixture"])
        trained = judge.weight if name in ("discriminator", "smaller candidate") else net.mix
        value = {
            "exclusion": lambda outputs=outputs: ExclusionLoss(levels=2)(outputs, batch),
            "rasgan": lambda outputs=outputs: adversarial(outputs, batch),
            "pixel": lambda outputs=outputs: PixelLoss()(outputs, batch),
            "discriminator": lambda outputs=outputs: adversarial.discriminator_loss(outputs, batch, phase=0),
            "smaller candidate": lambda outputs=outputs: adversarial.discriminator_loss(outputs, batch, phase=1),
        }[name]()
        (gradient,) = torch.autograd.grad(value, trained)
        results[name] = value.detach(), gradient
    return results


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        averaged: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        for label, mask in MASKS.items():
            averaged[label] = gradients(slice(2 * rank, 2 * rank + 2), mask)
            for pair in averaged[label].values():
                for tensor in pair:
                    dist.all_reduce(tensor)
                    tensor /= 2
        if rank == 0:
            torch.save(averaged, f"{folder}/averaged.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    folder = tmp_path_factory.mktemp("gloo")
    in_two_processes(_process, str(folder))
    return torch.load(Path(folder) / "averaged.pt", weights_only=True)


@pytest.mark.parametrize("label", MASKS)
@pytest.mark.parametrize("name", TERMS)
def test_two_processes_equal_one(averaged, label, name) -> None:
    value, gradient = gradients(slice(0, 4), MASKS[label])[name]
    found_value, found_gradient = averaged[label][name]
    assert found_value.item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-6)
    if label == "uneven":
        assert gradient.abs().max() > 1e-3


def test_halves_alone_would_not_do() -> None:
    """The comparison above means something: a mean of per-process losses is another number."""
    whole = gradients(slice(0, 4), MASKS["uneven"])
    halves = [gradients(slice(start, start + 2), MASKS["uneven"]) for start in (0, 2)]
    for name in ("exclusion", "rasgan", "pixel", "discriminator"):
        mean = (halves[0][name][1] + halves[1][name][1]) / 2
        assert (mean - whole[name][1]).abs().max() > 1e-3 * whole[name][1].abs().max(), name


def test_masked_means_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0], [100.0, 100.0]])
    valid = torch.tensor([True, True, False])
    assert masked_mean(values, valid).item() == 4.0
    assert masked_batch_mean(values, valid).tolist() == [[3.0, 5.0]]
    nobody = torch.zeros(3, dtype=torch.bool)
    assert masked_mean(values, nobody).item() == 0
    assert masked_batch_mean(values, nobody).tolist() == [[0.0, 0.0]]
