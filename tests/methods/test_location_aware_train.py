"""Location-aware SIRR through the command line: the recipe, its ablations, phases, resuming, precision."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import TINY, Run
from torch import Tensor

import reflectzoo
from reflectzoo.config import build, compose_config
from reflectzoo.core.batch import Batch
from reflectzoo.errors import UserError
from reflectzoo.methods.location_aware.module import LocationAware
from reflectzoo.methods.location_aware.net import LocationAwareNet
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import load_vgg19

Train = Callable[..., Run]

SHALLOW = ("+loss.terms.perceptual.layers={relu1_2: 1.0}", "+loss.terms.unaligned.layers={conv1_2: 1.0}")
"""Only the first block of the VGG, which is slow on a CPU."""

SMALL = ("model=location_aware", *TINY, "data.crop=40", "loss.terms.adversarial.discriminator.width=8")
NO_VGG = ("~loss.terms.perceptual", "~loss.terms.unaligned")
QUICK = (*SMALL, *NO_VGG, "data.samples_per_epoch=4", "test=false")

TERMS = {
    "confidence": 0.4,
    "composition": 0.4,
    "perceptual": 0.2,
    "ssim": 0.4 * 0.84,
    "pixel": 0.4 * 0.16,
    "adversarial": 0.01,
    "unaligned": 0.1,
}


def column(run: Path, name: str) -> list[float]:
    file = next(run.glob("logs/version_*/metrics.csv"))
    return [float(row[name]) for row in csv.DictReader(file.open()) if row.get(name)]


def saved(run: Run) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return content


# -- the recipe --------------------------------------------------------------------------------------------------------


def test_recipe() -> None:
    config = compose_config(["model=location_aware", "data=mixture_location_aware"])
    loss = build(config.loss)
    assert {name: pytest.approx(term.weight) for name, term in loss.terms.items()} == TERMS
    assert {term.attenuation for term in loss.terms.values() if hasattr(term, "attenuation")} == {0.85}
    assert config.synthesis.alpha == [0.8, 1.0]
    assert (config.data.samples_per_epoch, config.data.batch_size, config.data.crop) == (4000, 2, 256)
    first, later = config.data.ratios, config.data.later[60]
    assert 4000 * first.voc == 4000 * later.voc == 2800
    assert "unaligned" not in first
    assert later.unaligned / later.nature == pytest.approx(250 / 200, abs=0.01)
    optimizer = build(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.99)
    schedule, rates = build(config.scheduler)(optimizer), []
    for _ in range(config.trainer.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([2e-4] * 60 + [1e-4] * 20)


def test_a_run(train: Train) -> None:
    run = train(*SMALL, *SHALLOW)
    assert run.status == 0, run.err
    terms = {name: weight for name, weight in TERMS.items() if name != "unaligned"}
    for term in ("total", *TERMS, "discriminator"):
        assert len(column(run.folder, f"train/{term}")) == 4, term
    assert not any(column(run.folder, "train/unaligned")), "there are no unaligned pairs"
    total = sum(weight * column(run.folder, f"train/{term}")[0] for term, weight in terms.items())
    assert total == pytest.approx(column(run.folder, "train/total")[0], rel=1e-4)
    assert column(run.folder, "train/composition")[0] > 0, "alpha reached the loss"
    with Image.open(run.folder / "pictures/val_sample_iterations.png") as picture:
        assert picture.width == 5 * 232 + 8, "input, three iterations, truth"


# -- ablations ---------------------------------------------------------------------------------------------------------

ABLATIONS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "w/o RDM & TSM": ("model.net.detection=none", "model.net.suppression=false", "~loss.terms.confidence"),
    "w/o TSM": ("model.net.suppression=false",),
    "w/o LSTM": ("model.net.lstm=false",),
    "C from I_ft": ("model.net.detection=image",),
    "MLSM -> SLSM": ("model.net.scales=1",),
    "Fix MLSM": ("model.net.train_kernel=false",),
    "Laplacian -> Edge": ("model.net.kernel=edge",),
    "LKI -> RKI": ("model.net.kernel=random", "model.clip_kernel=null"),
    "w/o GC in MLSM": ("model.clip_kernel=null",),
    "w/o L_pixel": ("~loss.terms.pixel",),
    "w/o L_SSIM": ("~loss.terms.ssim",),
    "w/o L_P": ("~loss.terms.perceptual",),
    "w/o L_comp": ("~loss.terms.confidence", "~loss.terms.composition"),
    "w/o L_adv": ("~loss.terms.adversarial",),
    "L_C -> L_C^B": ("loss=location_aware_bce",),
    "L_C^B & RKI": ("loss=location_aware_bce", "model.net.kernel=random", "model.clip_kernel=null"),
}
"""Rows of Tables 2 and 3; the page lists the same overrides."""


@pytest.fixture(scope="module")
def steps() -> dict[str, tuple[dict[str, Tensor], set[str]]]:
    """Weights and loss terms of every ablation, after its first step."""
    layers = torch.rand(2, 2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    transmission, reflection, alpha = layers[0], 0.5 * layers[1], torch.tensor([0.8, 0.9])
    mixture = (alpha.view(-1, 1, 1, 1) * transmission**2.2 + reflection**2.2).clamp(max=1) ** (1 / 2.2)
    known, names = torch.tensor([True, True]), ["a", "b"]
    batch: Batch = {
        "mixture": mixture,
        "transmission": transmission,
        "reflection": reflection,
        "has_transmission": known,
        "has_reflection": known,
        "name": names,
        "dataset": names,
        "draws": {"alpha": alpha},
    }
    vgg = load_vgg19("random")
    found = {}
    for row, overrides in ABLATIONS.items():
        shallow = [word for word in SHALLOW if "perceptual" not in word or "~loss.terms.perceptual" not in overrides]
        small = ["model.net.width=8", "model.init_std=0.1"]
        if "~loss.terms.adversarial" not in overrides:
            small.append("loss.terms.adversarial.discriminator.width=8")
        torch.manual_seed(0)
        model = build(compose_config(["model=location_aware", *small, *shallow, *overrides]).model)
        attach_vgg(model, vgg)
        # Not Adam, whose first step has one length for every gradient. A large loss, so that clipping shows.
        optimizer = torch.optim.SGD(model.param_groups(), lr=1e-6)
        total, parts = model.loss(model(mixture), batch)
        (1e4 * total).backward()
        model.on_before_optimizer_step(optimizer)
        optimizer.step()
        found[row] = ({key: value.detach().clone() for key, value in model.net.named_parameters()}, set(parts))
    return found


@pytest.mark.parametrize("row", ABLATIONS)
def test_ablations(row: str, steps: dict[str, tuple[dict[str, Tensor], set[str]]]) -> None:
    """Each composes, builds, trains a step, and then differs from all others."""
    weights, terms = steps[row]
    assert all(value.isfinite().all() for value in weights.values())
    for other, (their_weights, their_terms) in steps.items():
        same = weights.keys() == their_weights.keys() and all(
            torch.equal(value, their_weights[key]) for key, value in weights.items()
        )
        assert same == (row == other), other
        if row.startswith("w/o L_") and other == "ours":
            gone = {word.removeprefix("~loss.terms.") for word in ABLATIONS[row]}
            assert terms == their_terms - gone


def test_the_page_lists_every_ablation() -> None:
    page = Path(reflectzoo.__file__).parent / "methods/location_aware/README.md"
    text = page.read_text(encoding="utf-8")
    for row, overrides in ABLATIONS.items():
        assert all(f"{override}" in text for override in overrides), row


# -- training ----------------------------------------------------------------------------------------------------------


def tiny(**arguments: object) -> LocationAware:
    net = LocationAwareNet(width=4)
    loss = build(compose_config(["loss=pixel"]).loss)
    return LocationAware(net, loss, lambda parameters: torch.optim.SGD(parameters, lr=1.0), **arguments)


def test_clipping_is_of_the_kernel_alone() -> None:
    model = tiny()
    kernel, other = model.net.lap_pyramid.kernel, model.net.conv1[0].weight
    optimizer = model.make_optimizer(model.net.parameters())
    for length, expected in ((10.0, 0.25), (0.1, 0.1)):
        for parameter in (kernel, other):
            parameter.grad = torch.ones_like(parameter) * (length / parameter.numel() ** 0.5)
        model.on_before_optimizer_step(optimizer)
        assert kernel.grad.norm().item() == pytest.approx(expected, rel=1e-4)
        assert other.grad.norm().item() == pytest.approx(length, rel=1e-4)
    kernel.grad = torch.ones_like(kernel)
    model.on_before_optimizer_step(torch.optim.SGD([other], lr=1.0))  # the discriminator's turn
    assert torch.equal(kernel.grad, torch.ones_like(kernel))
    free = tiny(clip_kernel=None)
    free.net.lap_pyramid.kernel.grad = 100 * torch.ones_like(kernel)
    free.on_before_optimizer_step(free.make_optimizer(free.net.parameters()))
    assert free.net.lap_pyramid.kernel.grad.max() == 100


def test_clipping_happens_in_training(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    hook = LocationAware.on_before_optimizer_step

    def spy(model: LocationAware, optimizer: torch.optim.Optimizer) -> None:
        kernel = model.net.lap_pyramid.kernel
        if kernel.grad is not None:
            kernel.grad *= 1e6
        hook(model, optimizer)
        if kernel.grad is not None:
            lengths.append(float(kernel.grad.norm()))

    monkeypatch.setattr(LocationAware, "on_before_optimizer_step", spy)
    run = train(*QUICK, "trainer.max_epochs=1", "+trainer.limit_val_batches=0", "callbacks.best.monitor=null")
    assert run.status == 0, run.err
    assert lengths == pytest.approx([0.25] * 2, rel=1e-4)


def test_first_weights() -> None:
    model = tiny()
    weights = torch.cat([m.weight.flatten() for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(m.bias.any() for m in model.net.modules() if getattr(m, "bias", None) is not None)
    assert model.net.lap_pyramid.kernel[0, 0].tolist() == [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    with pytest.raises(UserError, match=r"model\.init"):
        tiny(init="zero")


def test_the_papers_variance_as_written_explodes() -> None:
    torch.manual_seed(0)
    model = LocationAware(
        LocationAwareNet(), build(compose_config(["loss=pixel"]).loss), SimpleNamespace, init_std=0.02**0.5
    )
    with torch.no_grad():
        last = model(torch.rand(1, 3, 16, 16))["transmission"]
    assert not last.square().isfinite().all()


@pytest.mark.parametrize(("init", "confidence"), [("copy", 0.5), ("copy_input", 0.31)])
@pytest.mark.parametrize("detection", ["laplacian", "none"])
def test_start_as_a_copy(detection: str, init: str, confidence: float) -> None:
    torch.manual_seed(0)
    net = LocationAwareNet(width=16, detection=detection, suppression=detection != "none")  # type: ignore[arg-type]
    LocationAware(net, build(compose_config(["loss=pixel"]).loss), SimpleNamespace, init=init)
    mixture = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), (48, 48), mode="bilinear")
    outputs = net(mixture)
    for each in outputs["aux"]["transmission"]:
        torch.testing.assert_close(each, mixture)
    assert outputs["reflection"].mean().item() == pytest.approx(0.1, abs=0.1)
    for each in outputs["aux"].get("confidence", []):
        assert each.mean().item() == pytest.approx(confidence, abs=0.02)
    outputs["transmission"].mean().backward()
    # What the last layer does not look at yet has no gradient yet, but the last layer has one for it.
    assert net.output[0].weight.grad[:, 3:].abs().min() > 0


@pytest.mark.parametrize("init", ["copy", "copy_input"])
def test_which_image_is_handed_on(init: str) -> None:
    torch.manual_seed(0)
    net = LocationAwareNet(width=16)
    LocationAware(net, build(compose_config(["loss=pixel"]).loss), SimpleNamespace, init=init)
    mixture, previous = torch.rand(1, 3, 48, 48), torch.rand(1, 3, 48, 48)
    torch.testing.assert_close(net.step(mixture, previous).transmission, mixture if init == "copy_input" else previous)


DETECTION = ("lap_pyramid", "det_conv5", "det_conv6", "det_conv7", "det_conv8", "p_relu", "det_conv_mask0")


def test_detection_first_gives_nothing_else_a_gradient() -> None:
    torch.manual_seed(0)
    loss = build(compose_config(["model=location_aware", *NO_VGG, "~loss.terms.adversarial"]).loss)
    net = LocationAwareNet(width=16)
    model = LocationAware(net, loss, SimpleNamespace, init="copy_input", detection_epochs=1)
    transmission, reflection = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24)
    batch: Batch = {
        "mixture": transmission + reflection,
        "transmission": transmission,
        "reflection": reflection,
        "has_transmission": torch.tensor([True]),
        "has_reflection": torch.tensor([True]),
        "draws": {"alpha": torch.tensor([0.9])},
    }  # type: ignore[typeddict-item]
    outputs = model.predict_batch(batch)
    assert torch.equal(outputs["transmission"], batch["mixture"])
    total, parts = loss(outputs, batch)
    assert set(parts) == {"confidence"}
    assert set(loss(model.eval().predict_batch(batch), batch, epoch=1)[1]) == {
        "confidence",
        "composition",
        "ssim",
        "pixel",
    }
    total.backward()
    learnt = {name for name, each in net.named_parameters() if each.grad is not None and each.grad.any()}
    assert {name.split(".")[0] for name in learnt} == set(DETECTION)
    # Validation sees the whole network at any time.
    assert len(model.predict_batch(batch)["aux"]["transmission"]) == 3


def test_detection_first_then_everything(train: Train) -> None:
    run = train(*QUICK, "model.init=copy_input", "model.detection_epochs=1", "trainer.max_epochs=2")
    assert run.status == 0, run.err
    for term in ("composition", "ssim", "discriminator"):
        assert len(column(run.folder, f"train/{term}")) == len(column(run.folder, "train/pixel"))
    assert len(column(run.folder, "train/confidence")) == 2 * len(column(run.folder, "train/pixel")) > 0
    assert column(run.folder, "val/mean/psnr")[0] == pytest.approx(column(run.folder, "val/mean/input_psnr")[0])
    assert column(run.folder, "val/mean/psnr")[1] != pytest.approx(column(run.folder, "val/mean/psnr")[0])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.net.detection=none", "model.net.suppression=false", "~loss.terms.confidence"], "detection=none"),
        (["~loss.terms.confidence"], "no loss term uses it"),
        (["model.detection_epochs=-1"], "must be a whole number of at least 0"),
        (["model.detection_epochs=many"], "must be a whole number of at least 0"),
    ],
)
def test_detection_first_needs_something_to_learn(train: Train, overrides: list[str], sentence: str) -> None:
    run = train(*QUICK, "model.detection_epochs=1", *overrides)
    assert run.status == 2
    assert sentence in run.sentence


def test_starting_from_the_authors_file(train: Train, tmp_path: Path) -> None:
    from tests.methods.test_location_aware_net import in_the_authors_layout, small

    net = small()
    torch.save(in_the_authors_layout(net), tmp_path / "model.pth")
    run = train(*QUICK, "model.stage1_ckpt=model.pth", "trainer.max_epochs=1", "optimizer.lr=0.0")
    assert run.status == 0, run.err
    found = saved(run)
    assert all(torch.equal(value, found[f"net.{key}"]) for key, value in net.state_dict().items())
    # What training wrote is read again without the file.
    (tmp_path / "model.pth").unlink()
    model = reflectzoo.load_model(run.folder / "checkpoints/last.ckpt")
    assert torch.equal(model.net.conv1[0].weight, net.conv1[0].weight)  # type: ignore[union-attr, index]


def test_a_file_that_does_not_fit_is_told(train: Train, tmp_path: Path) -> None:
    torch.save(LocationAwareNet(width=4).state_dict(), tmp_path / "narrow.pth")
    run = train(*QUICK, "model.stage1_ckpt=narrow.pth")
    assert run.status == 2
    assert "set model.net.width=4" in run.sentence


def folder_of_pairs(root: Path, *names: str) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        root.joinpath(name).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


def test_unaligned_pairs_in_the_second_phase_and_resuming_into_it(train: Train, tmp_path: Path) -> None:
    """One fit through both phases equals a fit that stopped in the first and went on in the second."""
    data = tmp_path / "pairs"
    for part in ("real", "unaligned"):
        folder_of_pairs(
            data / part, "train/blended", "train/transmission_layer", "test/blended", "test/transmission_layer"
        )
    parts = (
        "data=mixture",
        *("~data.parts.voc", "~data.parts.zhang", "+data@data.parts.photos=sample", "data.parts.photos.crop=40"),
        *("+data@data.parts.pairs=nature", f"data.parts.pairs.root={data}/real", "data.parts.pairs.crop=40"),
        *("+data@data.parts.unaligned=unaligned", f"data.parts.unaligned.root={data}/unaligned"),
        *("data.parts.unaligned.crop=40", "data.validate=[photos]", "data.test=[photos]", "data.crop=40"),
        "data.parts.photos.eval_crop=32",
        "~data.ratios",
        "+data.ratios={photos: 0.5, pairs: 0.5}",
        "data.later={1: {photos: 0.3, pairs: 0.2, unaligned: 0.5}}",
        "scheduler.milestones=[1]",
    )
    small = [word for word in SMALL if not word.startswith(("data.crop", "data.eval_crop"))]
    common = (*small, *SHALLOW, *parts, "test=false", "callbacks.best.monitor=null")
    whole = train(*common, folder="whole")
    assert whole.status == 0, whole.err
    unaligned = column(whole.folder, "train/unaligned")
    assert not any(unaligned[:2])
    assert any(unaligned[2:])
    half = train(*common, "trainer.max_epochs=1", folder="half")
    rest = train(*common, f"ckpt_path={half.folder}/checkpoints/last.ckpt", folder="rest")
    assert half.status == rest.status == 0, rest.err
    expected, found = saved(whole), saved(rest)
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


def test_bf16(train: Train) -> None:
    run = train(
        *QUICK, "trainer=fast", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", "~loss.terms.adversarial"
    )
    assert run.status == 0, run.err
    assert all(value == value for value in column(run.folder, "train/total"))


def test_too_small_a_crop_is_told(train: Train) -> None:
    run = train(*SMALL, "data.crop=32")
    assert run.status == 2
    assert "set data.crop to 64 or more" in run.sentence


def test_any_method_may_use_the_terms(train: Train) -> None:
    run = train(
        *("model=ytmt_pcs", "loss=location_aware", "~loss.terms.confidence", *TINY, *NO_VGG, "trainer=fast"),
        *("synthesis=location_aware", "trainer.accelerator=cpu", "test=false"),
        "loss.terms.adversarial.discriminator.width=8",
    )
    assert run.status == 0, run.err
    assert column(run.folder, "train/composition")[0] > 0
