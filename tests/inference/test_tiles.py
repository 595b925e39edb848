"""Tiles are not seen: windows sum to one, and the result is that of the whole picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import reflectzoo
from reflectzoo.errors import UserError
from reflectzoo.inference import tiles
from reflectzoo.inference.load import LoadedModel
from reflectzoo.inference.separator import Separator, difference, parse_bytes
from reflectzoo.inference.tiles import TILE_STRIDE, bytes_per_pixel, plan_tiles, size_for_statistics, spans, tile_share
from reflectzoo.inference.whole_view import GlobalStatistics, TilePosition


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 4))
def test_shares_sum_to_one_and_tiles_fit(length: int, size: int, halo: int) -> None:
    length, size, halo = length * TILE_STRIDE, size * TILE_STRIDE, halo * TILE_STRIDE
    cut = spans(length, size, halo)
    total = torch.zeros(length)
    for span in cut:
        assert span.start % TILE_STRIDE == 0
        assert span.stop - span.start <= max(size, 3 * halo, 2 * halo + TILE_STRIDE)
        total[span.start : span.stop] += tile_share(span, halo)
    assert torch.allclose(total, torch.ones(length), atol=1e-6)
    assert cut[0].start == 0
    assert cut[-1].stop == length


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(300 * 300, 3000 * 3000))
def test_plans_keep_to_their_pixels(height: int, width: int, pixels: int) -> None:
    plan = plan_tiles(height, width, pixels)
    assert plan.height >= height
    assert plan.width >= width
    assert plan.tile[0] * plan.tile[1] <= max(pixels, (3 * tiles.HALO) ** 2)


def vivid(name: str, *overrides: str) -> LoadedModel:
    """A network whose output follows its input: fresh weights fade over many layers."""
    torch.manual_seed(0)
    model = reflectzoo.load_model(name, None, *overrides, untrained=True)
    for module in model.net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.kernel_size[0] > 1:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            # Two attentions halve each signal of a YTMT block; lite's residual blocks double theirs.
            module.weight.data *= 5 if name.startswith("ytmt") else 0.3 if name == "lite" else 1.4
    for key, parameter in model.net.named_parameters():
        if key.rpartition(".")[2] in ("a", "b", "a_l", "a_r", "b_l", "b_r"):
            nn.init.normal_(parameter, std=0.5)  # DSRNet's blocks start as the identity
    model.enter_last_phase()
    return model


def photograph(height: int, width: int) -> Tensor:
    """Something with large and small structures."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(1, 3, height // step, width // step, generator=generator) for step in (4, 16, 64)]
    return (
        torch.stack([F.interpolate(layer, (height, width), mode="bicubic")[0] for layer in layers]).mean(0).clamp(0, 1)
    )


DSRNET = [f"model.net.{each}" for each in ("width=8", "encoder=[1]", "middle=1", "decoder=[1]", "residue=[1,1]")]
NETWORKS = {
    # name: overrides, halo that holds most of what a pixel depends on, bound
    "ytmt_pcs": (["model.net.width=8"], 32, 1e-4),
    "ytmt_ucs": (["model.net.width=8", "model.net.hypercolumn=false"], 64, 1e-4),
    "ytmt_ucs_old": (["model.net.width=8", "model.net.hypercolumn=false"], 64, 1e-4),
    "lite": (["model.net.widths=[8,12,16,16]", "model.net.stream_widths=[8,8,8]"], 160, 1e-5),
    "corrn": (["model.net.width=4"], 256, 1e-3),
    "location_aware": (["model.net.width=4", "model.net.iterations=1"], 256, 1e-3),
    "dsrnet_s": (["model.vgg=random", *DSRNET], 160, 1e-3),
    "errnet": (["model.net.width=8", "model.net.blocks=2", "model.net.hypercolumn=false"], 64, 1e-3),
    "dynamics_student": (["model.net.width=8", "model.net.blocks=2"], 160, 1e-3),
}


# DSRNet's VGG is never narrow: tests/contract has its tiles at the smallest size.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "dsrnet_s" else name for name in NETWORKS]
)
def test_tiles_are_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides, halo, bound = NETWORKS[name]
    # Means over all pixels are exact here, so that what remains is the tiles' own doing.
    monkeypatch.setattr(tiles, "REDUCED_PIXELS", 10**9)
    model = vivid(name, *overrides)
    mixture = photograph(128, 3 * halo + 192)
    separator = Separator(model, "cpu", halo=halo)
    assert separator.layers(mixture)["transmission"].std() > 1e-2, "a constant would agree with anything"
    found = difference(separator, mixture, 3 * halo)
    assert separator.last is not None
    assert separator.last.tiles >= 2
    assert max(found.values()) < bound, found


def blind_to_the_whole(self: GlobalStatistics, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return func(*args, **kwargs or {})


def test_without_the_whole_view_tiles_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vivid("ytmt_ucs", "model.net.width=8", "model.net.hypercolumn=false")
    separator = Separator(model, "cpu", halo=96)
    mixture = photograph(320, 448)
    seen = difference(separator, mixture, 320)
    monkeypatch.setattr(GlobalStatistics, "__torch_function__", blind_to_the_whole)
    blind = difference(separator, mixture, 320)
    assert blind["transmission"] > 100 * seen["transmission"]


def test_statistics_of_a_reduced_picture_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "REDUCED_PIXELS", 192 * 192)
    model = vivid("ytmt_ucs", "model.net.width=8", "model.net.hypercolumn=false")
    mixture = photograph(384, 448)
    assert size_for_statistics(*mixture.shape[-2:]) == (192, 192)
    assert difference(Separator(model, "cpu", halo=64), mixture, 256)["transmission"] < 0.05


class Pinned(nn.Module):
    """Halves, pools a pyramid, and enlarges both, corners pinned or not."""

    def __init__(self, pinned: bool) -> None:
        super().__init__()
        self.pinned = pinned

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        coarse = F.avg_pool2d(x, 4)
        fine = F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=self.pinned)
        pyramid = F.interpolate(F.adaptive_avg_pool2d(x, 3), x.shape[-2:], mode="bilinear", align_corners=self.pinned)
        return {"transmission": 0.5 * fine + 0.5 * pyramid}


@pytest.mark.parametrize("pinned", [True, False])
def test_enlargements_and_pyramids(pinned: bool) -> None:
    found = difference(Separator(Pinned(pinned), "cpu", halo=32), photograph(256, 320), 128)
    assert max(found.values()) < 1e-5


def test_a_network_that_asks_otherwise_is_noticed() -> None:
    view = GlobalStatistics()
    x = torch.rand(1, 3, 32, 32)
    with view.learning():
        x.mean(dim=(2, 3))
    with pytest.raises(RuntimeError, match="0 of 1"), view.at(TilePosition(0, 0, 32, 32, 64, 64)):
        x.relu()
    view.learning()
    with pytest.raises(RuntimeError, match="more statistics"), view.at(TilePosition(0, 0, 32, 32, 64, 64)):
        x.mean(dim=(2, 3))


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (17, 3), (65, 129)])
def test_any_size(size: tuple[int, int]) -> None:
    model = vivid("ytmt_ucs", "model.net.width=4", "model.net.hypercolumn=false")
    mixture = torch.rand(3, *size)
    for tile in (0, 64):
        layers = Separator(model, "cpu", tile=tile, halo=0).layers(mixture)
        assert layers["transmission"].shape == layers["reflection"].shape == mixture.shape


def test_a_small_budget_makes_small_tiles() -> None:
    model = vivid("ytmt_pcs", "model.net.width=8")
    separator = Separator(model, "cpu", memory=1)
    separator.layers(photograph(448, 448))
    assert separator.last is not None
    assert separator.last.tiles > 1
    roomy = Separator(model, "cpu", memory=2**40)
    roomy.layers(photograph(448, 448))
    assert roomy.last is not None
    assert roomy.last.tiles == 1


def test_memory_is_measured() -> None:
    def network(x: Tensor) -> dict[str, Tensor]:
        # Four maps of 8 channels live at once, 128 bytes a pixel, besides what is let go.
        maps = [x.new_ones(1, 8, *x.shape[-2:]) for _ in range(4)]
        del maps[0]
        _ = torch.cat(maps[:1])
        return {"transmission": x}

    assert 128 <= bytes_per_pixel(network, torch.device("cpu")) < 200


def test_amounts_of_memory() -> None:
    assert parse_bytes("800M") == 800 * 2**20
    assert parse_bytes("2GiB") == 2**31
    for wrong in ("", "G", "-1G", "nan", "much", "1e400"):
        with pytest.raises(UserError):
            parse_bytes(wrong)


def test_devices() -> None:
    with pytest.raises(UserError, match="no device"):
        Separator(nn.Identity(), "tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            Separator(nn.Identity(), "cuda")
    with pytest.raises(UserError, match="needs a GPU"):
        Separator(nn.Identity(), "cpu", "16")
