"""The convolution that never builds the hypercolumn, against the one that does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets import hypercolumn
from reflectzoo.nets.hypercolumn import (
    HYPERCOLUMN_CHANNELS,
    LEVEL_CHANNELS,
    VGG_LAYERS,
    Hypercolumn,
    HypercolumnConv2d,
    HyperFeatures,
    dense_hypercolumn,
    hypercolumn_conv2d,
    joint_hypercolumn_conv2d,
    plain_hypercolumn,
)
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.nets.vgg import VGG19, load_vgg19

NARROW = (4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    return load_vgg19("random")


def made_up(
    size: tuple[int, int],
    batch: int = 1,
    channels: tuple[int, ...] = NARROW,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> HyperFeatures:
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    levels = []
    for count in channels:
        levels.append(torch.randn(batch, count, height, width, generator=generator, dtype=dtype).relu())
        height, width = height // 2, width // 2
    return HyperFeatures(torch.rand(batch, 3, *size, generator=generator, dtype=dtype), levels)


def weights(features: HyperFeatures, outputs: int = 6, seed: int = 1, side: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = 3 + sum(level.shape[1] for level in features.levels)
    dtype = features.image.dtype
    scale = (side**2 * channels) ** -0.5
    weight = torch.randn(outputs, channels, side, side, generator=generator, dtype=dtype) * scale
    return weight, torch.randn(outputs, generator=generator, dtype=dtype)


def plain(features: HyperFeatures, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.conv2d(dense_hypercolumn(features), weight, bias, padding=weight.shape[2] // 2)


@pytest.fixture(params=[96, 7], ids=["tile96", "tile7"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with tiles far smaller than the picture, so that borders between them lie everywhere."""
    monkeypatch.setattr(hypercolumn, "_TILE_CPU", request.param)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 48), (67, 93), (130, 40)])
@pytest.mark.parametrize("side", [3, 1])
@pytest.mark.usefixtures("tile")
def test_equals_plain_form(size: tuple[int, int], side: int) -> None:
    features = made_up(size, batch=2)
    weight, bias = weights(features, side=side)
    assert (hypercolumn_conv2d(features, weight, bias) - plain(features, weight, bias)).abs().max() <= 1e-5


@pytest.mark.parametrize("outputs", [1, 3, 64])
def test_full_width_equals_plain_form(outputs: int) -> None:
    features = made_up((50, 71), channels=LEVEL_CHANNELS)
    weight, bias = weights(features, outputs)
    assert weight.shape[1] == HYPERCOLUMN_CHANNELS
    assert (hypercolumn_conv2d(features, weight, bias) - plain(features, weight, bias)).abs().max() <= 1e-4


def test_without_bias() -> None:
    features = made_up((20, 33))
    weight, _ = weights(features)
    assert (hypercolumn_conv2d(features, weight) - plain(features, weight, None)).abs().max() <= 1e-5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("side", [3, 1])
def test_memory_format_follows_the_image(packed: bool, side: int) -> None:
    features = made_up((40, 56), batch=2)
    layout = torch.channels_last if packed else torch.contiguous_format
    features = HyperFeatures(
        features.image.contiguous(memory_format=layout),
        # The levels' layout is theirs: take the opposite one.
        [
            x.contiguous(memory_format=torch.contiguous_format if packed else torch.channels_last)
            for x in features.levels
        ],
    )
    weight, bias = weights(features, side=side)
    result = hypercolumn_conv2d(features, weight, bias)
    assert result.is_contiguous(memory_format=layout)
    assert (result - plain(features, weight, bias)).abs().max() <= 1e-5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("side", [3, 1])
@pytest.mark.usefixtures("tile")
def test_gradients_equal_those_of_the_plain_form(packed: bool, side: int) -> None:
    features = made_up((37, 50), batch=2, dtype=torch.float64)
    image = features.image.contiguous(memory_format=torch.channels_last if packed else torch.contiguous_format)
    weight, bias = weights(features, side=side)
    leaves = [x.requires_grad_() for x in (weight, bias, image, *features.levels)]
    features = HyperFeatures(image, features.levels)
    upstream = torch.randn(2, 6, 37, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fast = torch.autograd.grad(hypercolumn_conv2d(features, weight, bias), leaves, upstream)
    slow = torch.autograd.grad(plain(features, weight, bias), leaves, upstream)
    for name, a, b in zip(["weight", "bias", "image", *VGG_LAYERS], fast, slow, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-10 * max(1.0, float(b.abs().max())), name


@pytest.mark.parametrize("wanted", ["weight", "bias", "image", "coarsest level"])
def test_gradient_of_one_input_alone(wanted: str) -> None:
    features = made_up((18, 20), channels=(2, 2, 2, 2, 2), dtype=torch.float64)
    weight, bias = weights(features, outputs=2)
    leaf = {"weight": weight, "bias": bias, "image": features.image, "coarsest level": features.levels[-1]}[wanted]
    leaf.requires_grad_()
    assert torch.autograd.gradcheck(lambda _: hypercolumn_conv2d(features, weight, bias), (leaf,))


def test_second_derivative_is_refused() -> None:
    features = made_up((16, 16))
    weight, bias = weights(features)
    weight.requires_grad_()
    (first,) = torch.autograd.grad(hypercolumn_conv2d(features, weight, bias).square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


def test_autocast_computes_in_bfloat16() -> None:
    features = made_up((24, 33))
    weight, bias = weights(features)
    weight.requires_grad_()
    exact = plain(features, weight, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = hypercolumn_conv2d(features, weight, bias)
        reference = plain(features, weight, bias)
    assert result.dtype == torch.bfloat16
    error, usual = (result - exact).abs().max(), (reference - exact).abs().max()
    assert error <= 2 * usual + 1e-2
    result.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    (wanted,) = torch.autograd.grad(plain(features, weight, bias).sum(), weight)
    assert (weight.grad - wanted).norm() <= 0.02 * wanted.norm()


def test_trains_after_inference_mode() -> None:
    hypercolumn._column_strips.cache_clear()
    hypercolumn._row_strips.cache_clear()
    features = made_up((23, 29))
    weight, bias = weights(features)
    with torch.inference_mode():
        seen = hypercolumn_conv2d(features, weight, bias)
    weight.requires_grad_()
    result = hypercolumn_conv2d(features, weight, bias)
    result.sum().backward()
    assert torch.equal(result, seen)
    assert weight.grad is not None


def test_wrong_number_of_channels_is_told() -> None:
    features = made_up((16, 16))
    weight, bias = weights(features)
    with pytest.raises(ValueError, match="33 channels"):
        hypercolumn_conv2d(features, weight[:, 1:], bias)


def test_joint_pass_equals_single_ones() -> None:
    features = made_up((30, 41))
    channels = 3 + sum(NARROW)
    convs = [HypercolumnConv2d(channels, 4), HypercolumnConv2d(channels, 5)]
    for conv, found in zip(convs, joint_hypercolumn_conv2d(features, convs), strict=True):
        assert found.shape == (1, conv.out_channels, 30, 41)
        assert (found - plain(features, conv.weight, conv.bias)).abs().max() <= 1e-5
    joint = joint_hypercolumn_conv2d(features, convs)
    sum(x.square().sum() for x in joint).backward()
    for conv in convs:
        found = conv.weight.grad
        (wanted,) = torch.autograd.grad(plain(features, conv.weight, conv.bias).square().sum(), conv.weight)
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_joint_pass_without_and_with_mixed_biases() -> None:
    features = made_up((16, 19))
    channels = 3 + sum(NARROW)
    bare = [HypercolumnConv2d(channels, 4, bias=False) for _ in range(2)]
    for conv, found in zip(bare, joint_hypercolumn_conv2d(features, bare), strict=True):
        assert (found - plain(features, conv.weight, None)).abs().max() <= 1e-5
    with pytest.raises(ValueError, match="all have a bias"):
        joint_hypercolumn_conv2d(features, [bare[0], HypercolumnConv2d(channels, 4)])


def test_layer_takes_tensors_and_has_plain_keys() -> None:
    features = made_up((16, 16))
    conv = HypercolumnConv2d(3 + sum(NARROW), 2)
    assert list(conv.state_dict()) == ["weight", "bias"]
    assert (conv(features) - conv(dense_hypercolumn(features))).abs().max() <= 1e-5


def test_plain_switch_builds_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(hypercolumn, "dense_hypercolumn", lambda x: built.append(x) or dense_hypercolumn(x))
    features = made_up((16, 16))
    weight, bias = weights(features)
    hypercolumn_conv2d(features, weight, bias)
    assert not built
    with plain_hypercolumn():
        hypercolumn_conv2d(features, weight, bias)
    hypercolumn_conv2d(features, weight, bias)
    assert len(built) == 1


def test_export_takes_ordinary_operators() -> None:
    conv = HypercolumnConv2d(3 + sum(NARROW), 2).eval()

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, image: Tensor, *levels: Tensor) -> Tensor:
            return conv(HyperFeatures(image, list(levels)))

    features = made_up((16, 16))
    inputs = (features.image, *features.levels)
    program = torch.export.export(Whole(), inputs)
    assert (program.module()(*inputs) - conv(features)).abs().max() <= 1e-5


# The features themselves; their values against recorded ones are in tests/parity.


@pytest.mark.parametrize("size", [(16, 16), (35, 50)])
def test_features_of_an_image(vgg: VGG19, size: tuple[int, int]) -> None:
    module = Hypercolumn()
    attach_vgg(module, vgg)
    image = torch.rand(2, 3, *size).requires_grad_()
    features = module(image)
    assert features.image is image
    for level, count, halvings in zip(features.levels, LEVEL_CHANNELS, range(5), strict=True):
        assert level.shape == (2, count, size[0] >> halvings, size[1] >> halvings)
        assert not level.requires_grad
    assert dense_hypercolumn(features).shape == (2, HYPERCOLUMN_CHANNELS, *size)
    for level, wanted in zip(features.levels, vgg(image, VGG_LAYERS), strict=True):
        assert torch.allclose(level, wanted, atol=1e-5)


def test_inference_is_laid_out_channels_last(vgg: VGG19) -> None:
    module = Hypercolumn()
    attach_vgg(module, vgg)
    with torch.no_grad():
        features = module(torch.rand(1, 3, 20, 36))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in (features.image, *features.levels[:3]))


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 9)])
def test_tiny_images(vgg: VGG19, size: tuple[int, int]) -> None:
    module = Hypercolumn()
    attach_vgg(module, vgg)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3))
    features = module(image)
    assert [tuple(level.shape[-2:]) for level in features.levels] == [size] * 5
    grown = image[..., [min(i, size[0] - 1) for i in range(max(16, size[0]))], :]
    grown = grown[..., [min(i, size[1] - 1) for i in range(max(16, size[1]))]]
    wanted = dense_hypercolumn(module(grown))[..., : size[0], : size[1]]
    assert (dense_hypercolumn(features) - wanted).abs().max() <= 1e-5
    conv = HypercolumnConv2d(HYPERCOLUMN_CHANNELS, 2)
    assert (conv(features) - conv(dense_hypercolumn(features))).abs().max() <= 1e-4


def test_over_efficientnet_it_has_515_channels_and_the_convolution_is_exact() -> None:
    torch.manual_seed(0)
    net = Hypercolumn("efficientnet_lite0")
    assert not needs_vgg(net)
    image = torch.rand(1, 3, 40, 33)
    features = net(image)
    assert dense_hypercolumn(features).shape == (1, 515, 40, 33)
    conv = HypercolumnConv2d(515, 4)
    with torch.no_grad(), plain_hypercolumn():
        plain = conv(features)
    with torch.no_grad():
        torch.testing.assert_close(conv(features), plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"model\.net\.features must be vgg19 or efficientnet_lite0, got 'vgg16'"):
        Hypercolumn("vgg16")  # type: ignore[arg-type]
