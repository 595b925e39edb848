"""CoRRN's network: the authors' recorded outputs in both modes, exact shortcuts, any size, weights from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.errors import UserError
from reflectzoo.methods.corrn import encoder
from reflectzoo.methods.corrn.convert import check_layout, remap
from reflectzoo.methods.corrn.encoder import fill_encoder
from reflectzoo.methods.corrn.net import CoRRNNet, plain_copies
from reflectzoo.parity import rule_state_dict
from reflectzoo.parity.report import run_folder
from reflectzoo.weights.download import DownloadError

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"

VARIANTS = {"full": {}, "without gradient decoder": {"gradient_decoder": False}}


def small(**arguments: object) -> CoRRNNet:
    """Narrow, and filled by the parity rule: the same weights on every machine and with every version of torch."""
    net = CoRRNNet(width=8, **arguments)  # type: ignore[arg-type]
    net.load_state_dict(rule_state_dict(net, 1.2))
    return net


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def test_recorded_outputs_of_the_authors_program() -> None:
    """Outputs and features in both modes, running statistics and counters after a step; layout of the state dict."""
    lines = run_folder(RECORDED, ["corrn"])

    assert [line.name for line in lines] == ["corrn/eval64x96", "corrn/train64x96"]
    assert [line.verdict for line in lines] == ["pass", "pass"], "\n".join(map(str, lines))


def test_published_size() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in CoRRNNet().parameters()) == 59_512_039


# ---------------------------------------------------------------------------------------------------------------------
# Three equal branches computed once


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_branch_for_three_equals_three(variant: str, training: bool) -> None:
    results = []
    for literal in (False, True):
        net = small(**VARIANTS[variant]).double().train(training)
        mixture = image(2, 3, 64, 96).double().requires_grad_()
        with plain_copies() if literal else nullcontext():
            outputs = net(mixture)
        maps = [outputs["transmission"], *(outputs.get("aux") or {}).values()]
        sum(each.square().sum() for each in maps).backward()
        gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
        results.append((maps, gradients, dict(net.named_buffers()), mixture.grad))
    (maps, gradients, buffers, back), (their_maps, their_gradients, their_buffers, their_back) = results
    for ours, theirs in zip(maps, their_maps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    for name, ours in gradients.items():
        torch.testing.assert_close(ours, their_gradients[name], rtol=1e-7, atol=1e-9, msg=name)
    for name, ours in buffers.items():
        torch.testing.assert_close(ours, their_buffers[name], rtol=1e-10, atol=1e-12, msg=name)
    torch.testing.assert_close(back, their_back, rtol=1e-7, atol=1e-9)


def test_branches_count_three_batches_and_all_others_one() -> None:
    net = small().train()
    net(image(2, 3, 32, 32))
    counts = {key: int(value) for key, value in net.named_buffers() if key.endswith("num_batches_tracked")}
    assert {key.split(".")[0] for key, count in counts.items() if count == 3} == {f"deconv{n}R" for n in range(5)}
    assert set(counts.values()) == {1, 3}


def test_plain_form_really_has_three_branches() -> None:
    net, widths = small().eval(), []
    net.deconv4R.register_forward_hook(lambda _module, _inputs, output: widths.append(output.shape[1]))
    net(image(1, 3, 32, 32))
    with plain_copies():
        net(image(1, 3, 32, 32))
    assert widths == [widths[0], 3 * widths[0]]


# ---------------------------------------------------------------------------------------------------------------------
# What goes in and what comes out


@pytest.mark.parametrize("size", [(67, 93), (1, 1), (5, 40), (32, 33)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_size(variant: str, size: tuple[int, int]) -> None:
    mixture = image(2, 3, *size)
    with torch.no_grad():
        outputs = small(**VARIANTS[variant]).eval()(mixture)
    assert outputs["transmission"].shape == mixture.shape
    assert outputs["transmission"].min() >= 0
    assert torch.equal(outputs["reflection"], mixture - outputs["transmission"])
    if variant == "full":
        gradient = outputs["aux"]["gradient"]
        assert gradient.shape == (2, 1, *size)
        assert 0 < gradient.min() < gradient.max() < 1
    else:
        assert "aux" not in outputs


def test_other_sizes_are_continued_by_reflection() -> None:
    net, mixture = small().eval(), image(1, 3, 50, 60)
    with torch.no_grad():
        found = net(mixture)["transmission"]
        whole = net(F.pad(mixture, (0, 4, 0, 14), mode="reflect"))["transmission"]
    assert torch.equal(found, whole[..., :50, :60])


def test_samples_do_not_see_each_other_in_evaluation() -> None:
    net, mixture = small().eval(), image(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(mixture)["transmission"][:1], net(mixture[:1])["transmission"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str) -> None:
    """From the transmission alone: the image decoder hears of everything, so DDP never waits in vain."""
    net = small(**VARIANTS[variant]).train()
    net(image(2, 3, 64, 64))["transmission"].square().sum().backward()
    silent = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not silent


def test_a_new_network_starts_as_bright_as_a_photograph() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        transmission = CoRRNNet(width=8).train()(image(2, 3, 64, 64))["transmission"]
    assert transmission.mean().item() == pytest.approx(0.45, abs=0.02)
    assert (transmission == 0).float().mean() < 0.1


def test_brightness_is_for_evaluation_only() -> None:
    plain, bright, mixture = small().eval(), small(brightness=1.1).eval(), image(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(bright(mixture)["transmission"], 1.1 * plain(mixture)["transmission"])
        torch.testing.assert_close(bright(mixture)["reflection"], mixture - bright(mixture)["transmission"])
        assert torch.equal(bright.train()(mixture)["transmission"], plain.train()(mixture)["transmission"])


def test_a_single_deepest_pixel_cannot_be_normalised() -> None:
    with pytest.raises(UserError, match=r"larger data\.crop or data\.batch_size"):
        small().train()(image(1, 3, 20, 32))


def test_too_narrow() -> None:
    with pytest.raises(UserError, match=r"model\.net\.width must be a whole number of at least 4, got 2"):
        CoRRNNet(width=2)


# ---------------------------------------------------------------------------------------------------------------------
# Weights from elsewhere


@pytest.fixture(scope="module")
def published() -> CoRRNNet:
    with torch.device("meta"):
        net = CoRRNNet()
    return net.to_empty(device="cpu")


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    """What stands in torchvision's file: no counters of batches, and a classifier. Every tensor has its own value."""
    state: dict[str, Tensor] = {}
    position, before = 0, 3
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for channels in block:
            state[f"features.{position}.weight"] = torch.full((channels, before, 3, 3), 1.0 + len(state))
            state[f"features.{position}.bias"] = torch.full((channels,), 1.0 + len(state))
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"features.{position + 1}.{part}"] = torch.full((channels,), 1.0 + len(state))
            position, before = position + 3, channels
        position += 1
    assert position == 44
    return {**state, "classifier.0.weight": torch.zeros(2, 2)}


def check_filled(net: CoRRNNet, state: dict[str, Tensor]) -> None:
    # The program's slices of the list of layers.
    starts = (0, 7, 14, 24, 34, 44)
    own = net.state_dict()
    for key, value in state.items():
        if not key.startswith("features."):
            continue
        position, part = int(key.split(".")[1]), key.split(".")[2]
        number = max(index for index, start in enumerate(starts) if start <= position)
        assert torch.equal(own[f"convs{number + 1}R.{position - starts[number]}.{part}"], value), key


def test_encoder_from_a_file(published: CoRRNNet, imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    path = str(tmp_path / "vgg.pth")
    torch.save({key.removeprefix("features."): value for key, value in imagenet.items() if "feat" in key}, path)
    assert fill_encoder(published, path) == path
    check_filled(published, imagenet)


def test_imagenet_is_fetched_and_auto_takes_it(
    published: CoRRNNet, imagenet: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(encoder, "fetch_state_dict", lambda url: asked.append(url) or imagenet)
    for weights in ("imagenet", "auto"):
        published.convs5R[6].weight.data.zero_()
        assert fill_encoder(published, weights) == "imagenet"
        check_filled(published, imagenet)
    assert asked == ["https://download.pytorch.org/models/vgg16_bn-6c64b313.pth"] * 2


def test_without_a_network(published: CoRRNNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> dict[str, Tensor]:
        raise DownloadError(f"{url} does not answer")

    monkeypatch.setattr(encoder, "fetch_state_dict", fail)
    before = published.convs1R[0].weight.clone()
    with pytest.warns(UserWarning, match="NO IMAGENET VGG-16"):
        assert fill_encoder(published, "auto") == "random"
    assert torch.equal(published.convs1R[0].weight, before)
    with pytest.raises(DownloadError):
        fill_encoder(published, "imagenet")


def test_other_files_are_told_in_a_sentence(published: CoRRNNet, imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    path = str(tmp_path / "file.pth")
    lacking = {key: value for key, value in imagenet.items() if key != "features.41.running_var"}
    wrong = {**imagenet, "features.0.weight": torch.zeros(64, 1, 3, 3)}
    for state, word in (
        (lacking, "features.41.running_var is missing"),
        (wrong, r"features.0.weight is \(64, 1, 3, 3\)"),
        ({**imagenet, "features.50.weight": torch.zeros(1)}, "also has features.50.weight"),
    ):
        torch.save(state, path)
        with pytest.raises(UserError, match=f"holds no VGG-16 with batch normalisation.*{word}"):
            fill_encoder(published, path)


def test_a_narrow_network_takes_no_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "fetch_state_dict", lambda url: pytest.fail("nothing is to be fetched"))
    assert fill_encoder(CoRRNNet(width=8), "auto") == "random"
    with pytest.raises(UserError, match=r"width 64 only, but model\.net\.width=8: set model\.encoder=random"):
        fill_encoder(CoRRNNet(width=8), "imagenet")


# ---------------------------------------------------------------------------------------------------------------------
# The authors' files


Change = Callable[[dict[str, Tensor]], dict[str, object]]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 40, "state_dict": state, "optimizer": {"state": {}}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {**{f"net.{key}": value for key, value in state.items()}, "x": torch.ones(1)}},
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    ],
    ids=["bare", "authors'", "parallel", "ours", "without counters"],
)
def test_remap(wrap: Change) -> None:
    net = small()
    state = remap(wrap(net.state_dict()))
    check_layout(state, net)
    other = CoRRNNet(width=8)
    other.load_state_dict(state)
    for key, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_another_checkpoint_is_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"not a CoRRN \(its first weight is 'inc.weight'\)"):
        remap({"inc.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"it holds no weights"):
        remap({"epoch": 3})
    state = small().state_dict()
    with pytest.raises(UserError, match="of width 8 with gradient decoder, but the model is one of width 16 with"):
        check_layout(state, CoRRNNet(width=16))
    with pytest.raises(UserError, match="with gradient decoder, but the model is one of width 8 without"):
        check_layout(state, CoRRNNet(width=8, gradient_decoder=False))
    del state["deconv0R.0.bn.bias"]
    with pytest.raises(UserError, match=r"File looks like.*1 of its \d+ weights do not fit.*'deconv0R.0.bn.bias'"):
        check_layout(state, small(), "File")


def test_channels_last_gives_the_same() -> None:
    net, mixture = small().eval(), image(1, 3, 64, 64)
    with torch.no_grad():
        plain = net(mixture)["transmission"]
        nn.Module.to(net, memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.testing.assert_close(
            net(mixture.contiguous(memory_format=torch.channels_last))["transmission"], plain, rtol=1e-4, atol=1e-5
        )
