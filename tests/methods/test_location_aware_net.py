"""Location-aware SIRR's network: the authors' recorded outputs, exact shortcuts, any size, precision, weights."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.bench.registry import Options, find_subjects
from reflectzoo.errors import UserError
from reflectzoo.methods.location_aware.convert import check_layout, remap
from reflectzoo.methods.location_aware.net import LocationAwareNet, begin
from reflectzoo.nets import contextual, recurrent, winograd
from reflectzoo.nets.efficientnet import EfficientNetLite0
from reflectzoo.nets.plain import plain_form
from reflectzoo.nets.recurrent import State
from reflectzoo.parity import rule_state_dict
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"

VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "without RDM and TSM": {"detection": "none", "suppression": False},
    "without TSM": {"suppression": False},
    "without LSTM": {"lstm": False},
    "map from image features": {"detection": "image"},
    "one scale": {"scales": 1},
    "fixed kernel": {"train_kernel": False},
    "edges": {"kernel": "edge"},
    "random kernel": {"kernel": "random"},
    "ImageNet features": {"features": "efficientnet_lite0"},
}


def small(width: int = 8, **arguments: object) -> LocationAwareNet:
    """Narrow, and filled by the parity rule: the same weights on every machine and with every version of torch."""
    net = LocationAwareNet(width=width, **arguments)  # type: ignore[arg-type]
    kernel = {"lap_pyramid.kernel"} & set(net.state_dict())
    # With a positive gain the last rectifier would cut away nearly everything.
    net.load_state_dict(rule_state_dict(net, 1.3, {"output.0.weight": -0.5} | dict.fromkeys(kernel, 2.0)))
    return net.eval()


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def flattened(outputs: dict) -> dict[str, Tensor]:
    found = {name: outputs[name] for name in ("transmission", "reflection")}
    for name, images in outputs["aux"].items():
        found |= {f"{name} {number}": each for number, each in enumerate(images, start=1)}
    return found


def test_recorded_outputs_of_the_authors_program() -> None:
    """A step from a given state with its inner features, and the recurrence with its states; the authors' layout."""
    lines = run_folder(RECORDED, ["lasirr_lrm"])
    assert [line.name for line in lines] == ["lasirr_lrm/step72x88", "lasirr_lrm/rec64x64"]
    assert [line.verdict for line in lines] == ["pass", "pass"], "\n".join(map(str, lines))
    assert not any("no counterpart" in line.remark for line in lines)


def test_published_size() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in LocationAwareNet().parameters()) == 10_925_719


# ---------------------------------------------------------------------------------------------------------------------
# Shortcuts


@pytest.mark.parametrize("variant", VARIANTS)
def test_shortcuts_are_exact(variant: str) -> None:
    """Values and gradients in float64, odd size, two samples."""
    results = []
    for literal in (True, False):
        net, mixture = small(**VARIANTS[variant]).double(), image(2, 3, 21, 34).double().requires_grad_()
        with plain_form() if literal else nullcontext():
            outputs = flattened(net(mixture))  # type: ignore[arg-type]
            torch.stack([each.square().mean() for each in outputs.values()]).sum().backward()
        gradients = {name: each.grad for name, each in net.named_parameters() if each.requires_grad}
        results.append((outputs, gradients, mixture.grad))
    (theirs, their_gradients, their_back), (ours, our_gradients, our_back) = results
    for name, each in theirs.items():
        torch.testing.assert_close(ours[name], each, rtol=1e-9, atol=1e-12, msg=name)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-7, atol=1e-12, msg=name)
    torch.testing.assert_close(our_back, their_back, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("band", [64, 2**21], ids=["some rows", "all rows"])
@pytest.mark.parametrize("fast", [False, True], ids=["direct", "Winograd"])
def test_shortcuts_of_inference_are_exact(band: int, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fast convolution in every layer that could have it, however narrow, and in float64."""
    net, mixture = small().double(), image(2, 3, 52, 70).double()
    monkeypatch.setattr(recurrent, "_BAND", band)
    monkeypatch.setattr(winograd, "_BAND", 36 * band)
    taken: list[int] = []

    def always(x: Tensor, weight: Tensor) -> bool:
        taken.append(1)
        return fast and not winograd._direct.get()

    for place in (contextual, recurrent, winograd):
        monkeypatch.setattr(place, "winograd_is_faster", always)
    with torch.inference_mode():
        ours = flattened(net(mixture))  # type: ignore[arg-type]
        assert len(taken) > 50
        with plain_form():
            theirs = flattened(net(mixture))  # type: ignore[arg-type]
    for name, each in theirs.items():
        torch.testing.assert_close(ours[name], each, rtol=1e-9, atol=1e-11, msg=name)


def test_published_width_takes_the_fast_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    bands = winograd.winograd_bands
    for place in (contextual, recurrent, winograd):
        monkeypatch.setattr(
            place,
            "winograd_bands",
            lambda x, weight, bias: calls.append(tuple(weight.shape[:2])) or bands(x, weight, bias),
        )
    net, mixture = LocationAwareNet(iterations=2), image(1, 3, 48, 48)
    with torch.no_grad():
        ours = flattened(net(mixture))  # type: ignore[arg-type]
        assert set(calls) == {(192, 64), (256, 128), (128, 128), (256, 256), (512, 256)}
        calls.clear()
        with plain_form():
            theirs = flattened(net(mixture))  # type: ignore[arg-type]
        assert not calls
    for name, each in theirs.items():
        torch.testing.assert_close(ours[name], each, rtol=0, atol=1e-5, msg=name)


def test_benchmark_compares_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    bands = winograd.winograd_bands
    for place in (contextual, recurrent, winograd):
        monkeypatch.setattr(place, "winograd_bands", lambda *arguments: calls.append(1) or bands(*arguments))
    rows = {row.key: row for row in find_subjects()["location_aware"].comparisons(Options(shrink=8))}
    assert rows["inference_fp32"].goal == 1.3
    assert rows["inference_bf16"].goal == 3.0
    rows["inference_fp32"].plain()()
    assert not calls
    rows["inference_fp32"].fast()()
    assert calls


def test_the_first_step_begins_with_an_empty_memory() -> None:
    net, mixture = small(), image(1, 3, 16, 24)
    zeros = torch.zeros(1, 8, 16, 24)
    with torch.no_grad():
        left_out, explicit = net.step(mixture, mixture), net.step(mixture, mixture, State(zeros, zeros))
    torch.testing.assert_close(left_out.transmission, explicit.transmission)
    torch.testing.assert_close(left_out.state, explicit.state)


# ---------------------------------------------------------------------------------------------------------------------
# What goes in and what comes out


@pytest.mark.parametrize("size", [(67, 93), (1, 1), (5, 40), (16, 24)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size(size: tuple[int, int]) -> None:
    height, width = size
    with torch.no_grad():
        outputs = small()(image(2, 3, *size))
    aux = outputs["aux"]
    shapes = {
        "transmission": (2, 3, height, width),
        "reflection": (2, 3, height, width),
        "confidence": (2, 1, height, width),
        "quarter": (2, 3, -(-height // 4), -(-width // 4)),
        "half": (2, 3, -(-height // 2), -(-width // 2)),
    }
    assert {name: [tuple(each.shape) for each in images] for name, images in aux.items()} == {
        name: [shape] * 3 for name, shape in shapes.items()
    }
    for name in ("transmission", "reflection"):
        assert torch.equal(outputs[name], aux[name][-1])  # type: ignore[literal-required]
        assert aux[name][-1].min() >= 0
    assert all(each.min() > 0 and each.max() < 1 for each in aux["confidence"])


def test_other_sizes_are_continued_by_reflection() -> None:
    net, mixture = small(), image(1, 3, 50, 61)
    with torch.no_grad():
        found = net(mixture)["transmission"]
        whole = net(F.pad(mixture, (0, 3, 0, 6), mode="reflect"))["transmission"]
    assert torch.equal(found, whole[..., :50, :61])


@pytest.mark.parametrize("detection", ["laplacian", "image"])
@pytest.mark.parametrize("size", [(24, 40), (21, 35)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_detection_alone_is_the_first_map(detection: str, size: tuple[int, int]) -> None:
    net, mixture = small(detection=detection), image(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(net.detect(mixture), net(mixture)["aux"]["confidence"][0])


def test_imagenet_features_come_from_the_wheel_and_join_in_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    net, mixture = small(features="efficientnet_lite0"), image(1, 3, 24, 40)
    with torch.no_grad():
        known = net._known(mixture)
        assert known is not None
        assert known.shape == (1, 4, 24, 40)
        seen = net.detect(mixture)
        torch.testing.assert_close(seen, net(mixture)["aux"]["confidence"][0])
        for convolution in net.seen:
            convolution.weight.zero_()
            convolution.bias.zero_()
        plain = small()
        plain.load_state_dict({key: net.state_dict()[key] for key in plain.state_dict()})
        torch.testing.assert_close(net.detect(mixture), plain.detect(mixture))
        assert not torch.allclose(seen, net.detect(mixture))
    other = EfficientNetLite0()
    monkeypatch.setattr("reflectzoo.methods.location_aware.net.efficientnet_lite0", lambda: other)
    begin(net)
    assert all(torch.equal(value, net.features.state_dict()[key]) for key, value in other.state_dict().items())
    begin(plain)  # nothing to do


def test_no_detection_alone_without_detection() -> None:
    with pytest.raises(UserError, match="no confidence map"):
        small(detection="none", suppression=False).detect(image(1, 3, 16, 16))


def test_polarity() -> None:
    """What leaves is the paper's C, 1 minus the program's map, which suppresses Laplacian features where it is high."""
    net, mixture = small(iterations=1), image(1, 3, 16, 16)
    with torch.no_grad():
        step = net.step(mixture, mixture)
        assert step.visibility is not None
        torch.testing.assert_close(net(mixture)["aux"]["confidence"][0], 1 - step.visibility)
        net.det_conv_mask0[2].weight.zero_()
        net.det_conv_mask0[2].bias.fill_(30.0)  # the transmission dominates everywhere
        features, visibility = net._detect(torch.cat((mixture, mixture), 1))
    assert visibility is not None
    assert visibility.min() == 1
    assert not features[:, 4:].any(), "all Laplacian features are suppressed"
    assert features[:, :4].any()


def test_each_transmission_enters_the_next_iteration_unclamped() -> None:
    net, mixture = small(), image(1, 3, 24, 24)
    with torch.no_grad():
        outputs = net(mixture)
        previous, state = mixture, None
        for number in range(3):
            step = net.step(mixture, previous, state)
            previous, state = step.transmission, step.state
            torch.testing.assert_close(step.transmission, outputs["aux"]["transmission"][number])
        one = LocationAwareNet(width=8, iterations=1)
        one.load_state_dict(net.state_dict())
        torch.testing.assert_close(one(mixture)["transmission"], outputs["aux"]["transmission"][0])
    first, _, last = outputs["aux"]["transmission"]
    assert not torch.allclose(first, last)


def test_memory_and_images_stay_in_full_precision() -> None:
    net, mixture = small(), image(1, 3, 16, 16)
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient), torch.autocast("cpu", dtype=torch.bfloat16):
            step = net.step(mixture, mixture)
            assert step.state is not None
            second = net.step(mixture, step.transmission, step.state)
            outputs = net(mixture.bfloat16())
        for each in (*step.state, *second.state, step.transmission, step.reflection, step.half, step.quarter):  # type: ignore[misc]
            assert each.dtype == torch.float32
        assert {each.dtype for each in flattened(outputs).values()} == {torch.float32}  # type: ignore[arg-type]
        with torch.no_grad():
            exact = net(mixture)
        for name, each in flattened(exact).items():  # type: ignore[arg-type]
            torch.testing.assert_close(flattened(outputs)[name].detach(), each, rtol=0.05, atol=0.05)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str) -> None:
    """Together the outputs hear of everything that is trained, so DDP never waits in vain."""
    net = small(**VARIANTS[variant])
    outputs = net(image(2, 3, 24, 24))
    torch.stack([each.mean() for each in flattened(outputs).values()]).sum().backward()  # type: ignore[arg-type]
    silent = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    frozen = {name for name, each in net.named_parameters() if not each.requires_grad}
    assert silent == frozen
    expected = {"fixed kernel": {"lap_pyramid"}, "ImageNet features": {"features"}}
    assert {name.split(".")[0] for name in frozen} == expected.get(variant, set())


def test_samples_do_not_see_each_other() -> None:
    net, mixture = small(), image(2, 3, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(mixture)["transmission"][:1], net(mixture[:1])["transmission"])


# ---------------------------------------------------------------------------------------------------------------------
# Variants


def test_variants_differ() -> None:
    """Each other than all others, in parameters or in values."""
    found = {}
    for name, arguments in VARIANTS.items():
        net = small(**arguments)
        if name == "random kernel":
            net.lap_pyramid.kernel.data = LocationAwareNet(width=8, kernel="random").lap_pyramid.kernel.data
        with torch.no_grad():
            value = net(image(1, 3, 24, 24))["transmission"].double().sum().item()
        trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
        found[name] = (trained, value)
    assert len(set(found.values())) == len(VARIANTS), found


def test_kernels_start_as_they_are_called() -> None:
    laplacian = LocationAwareNet(width=8).lap_pyramid.kernel
    assert laplacian.shape == (6, 1, 3, 3)
    assert laplacian[3, 0].tolist() == [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    assert laplacian.requires_grad
    assert not LocationAwareNet(width=8, train_kernel=False).lap_pyramid.kernel.requires_grad
    ramp = torch.arange(8.0).expand(1, 6, 8, 8).contiguous()
    with torch.no_grad():
        edges = LocationAwareNet(width=8, kernel="edge", scales=1).lap_pyramid(ramp)
    assert edges.shape == (1, 12, 8, 8)
    # Along x, then along y, of each channel.
    assert edges[0, :, 4, 4].tolist() == [1, 0] * 6
    torch.manual_seed(0)
    drawn = torch.cat([LocationAwareNet(width=2, kernel="random").lap_pyramid.kernel.flatten() for _ in range(40)])
    assert drawn.std().item() == pytest.approx(0.02**0.5, rel=0.1)


def test_laplacian_of_four_scales() -> None:
    pyramid = LocationAwareNet(width=8).lap_pyramid
    with torch.no_grad():
        bright = torch.ones(1, 6, 32, 32)
        patch = torch.zeros(1, 6, 32, 32)
        patch[..., 16:24, 16:24] = 1
        flat, found = pyramid(bright), pyramid(patch)
    assert not flat[0, -6:, 1:-1, 1:-1].any(), "no edges within a flat picture"
    assert found.shape == (1, 24, 32, 32)
    assert found[0, 18:, 16, 16].tolist() == [2.0] * 6, "at a corner, two neighbours are dark"
    assert found[0, 18:, 15, 18].tolist() == [-1.0] * 6
    spread = [(found[0, 6 * scale] != 0).sum().item() for scale in range(4)]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] == 28 + 32  # inside and outside of the border


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 1}, r"model\.net\.width must be a whole number of at least 2"),
        ({"iterations": 0}, r"model\.net\.iterations must be a whole number of at least 1"),
        ({"detection": "edges"}, r"model\.net\.detection must be one of laplacian, image, none"),
        ({"scales": 2}, r"model\.net\.scales must be 1 or 4"),
        ({"kernel": "sobel"}, r"model\.net\.kernel"),
        ({"detection": "none"}, r"model\.net\.suppression=false"),
        ({"features": "vgg"}, r"model\.net\.features must be efficientnet_lite0 or none"),
        ({"detection": "none", "suppression": False, "features": "efficientnet_lite0"}, "are for the detection"),
    ],
)
def test_mistakes(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LocationAwareNet(**arguments)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# Weights from elsewhere


def in_the_authors_layout(net: LocationAwareNet) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        if key.startswith("lstm.gates"):
            parts = zip("igof", value.chunk(4), strict=True)
            state |= {f"conv_{gate}.0.{key.rpartition('.')[2]}": part for gate, part in parts}
        else:
            state[key] = value
    return state


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}])
def test_the_authors_file_loads(wrap) -> None:  # type: ignore[no-untyped-def]
    net = small()
    state = remap(wrap(in_the_authors_layout(net)))
    check_layout(state, net)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert remap(state) == state, "harmless on what is ours already"
    ours = remap({"state_dict": {f"net.{key}": value for key, value in state.items()} | {"loss.x": torch.zeros(1)}})
    assert ours.keys() == state.keys()


def test_other_files_are_told() -> None:
    with pytest.raises(UserError, match=r"not a Location-aware SIRR \(its first weight is 'inc\.weight'\)"):
        remap({"inc.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="holds no weights"):
        remap({"epoch": 3})
    broken = in_the_authors_layout(small())
    del broken["conv_f.0.weight"]
    with pytest.raises(UserError, match=r"but not 'conv_f\.0\.weight'"):
        remap(broken)
    with pytest.raises(UserError, match=r"set model\.net\.width=8"):
        check_layout(small().state_dict(), LocationAwareNet(width=4))
    with pytest.raises(UserError, match="choose the settings of model"):
        check_layout(small(scales=1).state_dict(), small())
