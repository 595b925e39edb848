"""CoRRN through the command line: the recipe, its ablations, resuming, precision, two processes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import TINY, Run, command

import reflectzoo
from reflectzoo.config import build, compose_config
from reflectzoo.methods.corrn import module
from reflectzoo.methods.corrn.encoder import fill_encoder
from reflectzoo.methods.corrn.net import CoRRNNet

Train = Callable[..., Run]

SMALL = ("model=corrn", *TINY, "data.eval_crop=32")

TERMS = {
    "transmission_ssim": 0.6,
    "transmission_statistic": 0.6,
    "transmission_l1": 0.5,
    "reflection_ssim": 1.0,
    "reflection_statistic": 1.0,
    "gradient": 1.0,
}


def column(run: Path, name: str) -> list[float]:
    file = next(run.glob("logs/version_*/metrics.csv"))
    return [float(row[name]) for row in csv.DictReader(file.open()) if row.get(name)]


def state(run: Run) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return content


def weights_of(*overrides: str) -> dict[str, float]:
    model = build(compose_config(["model.net.width=8", *overrides]).model)
    return {name: term.weight for name, term in model.loss.terms.items()}


# -- the recipe ------------------------------------------------------------------------------------------------------


def test_recipe_of_the_paper() -> None:
    config = compose_config(["model=corrn"])
    assert weights_of("model=corrn") == TERMS
    assert {term.form for term in config.loss.terms.values() if "form" in term} == {"paper"}
    assert (config.synthesis.alpha, config.synthesis.beta) == ([0.8, 1.0], [0.1, 0.5])
    optimizer = build(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam)
    schedule, rates = build(config.scheduler)(optimizer), []
    for _ in range(config.trainer.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-4] * 30 + [1e-5] * 20)


def test_recipe_of_the_program() -> None:
    found = weights_of("model=corrn", "loss=corrn_program")
    assert found == {
        **TERMS,
        "transmission_ssim": 0.8,
        "transmission_statistic": 0.5,
        "transmission_l1": 1.0,
        "reflection_statistic": 0.5,
    }
    config = compose_config(["model=corrn", "loss=corrn_program", "scheduler=corrn_program", "model.epochs=81"])
    assert {term.form for term in config.loss.terms.values() if "form" in term} == {"program"}
    assert config.trainer.max_epochs == 81
    optimizer = build(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    schedule = build(config.scheduler)(optimizer)
    assert [schedule.lr_lambdas[0](epoch) for epoch in (0, 17, 18, 59, 60, 79, 80)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.25,
        0.125,
    ]


@pytest.mark.parametrize(
    ("experiment", "by_hand", "without"),
    [
        (
            "corrn_without_statistic",
            ("~loss.terms.transmission_statistic", "~loss.terms.reflection_statistic"),
            {"transmission_statistic", "reflection_statistic"},
        ),
        ("corrn_only_l1", ("loss=corrn_l1",), TERMS.keys() - {"transmission_l1"}),
        (
            "corrn_without_gradient_decoder",
            ("model.net.gradient_decoder=false", "~loss.terms.gradient"),
            {"gradient"},
        ),
    ],
)
def test_ablations_of_table_3(experiment: str, by_hand: tuple[str, ...], without: set[str]) -> None:
    expected = {name: weight for name, weight in TERMS.items() if name not in without}
    assert weights_of(f"experiment={experiment}") == weights_of("model=corrn", *by_hand) == expected
    net = build(compose_config([f"experiment={experiment}", "model.net.width=8"]).model).net
    assert net.gradient_decoder == ("gradient_decoder" not in experiment)


@pytest.mark.parametrize("experiment", ["corrn_only_l1", "corrn_without_gradient_decoder"])
def test_ablations_train(train: Train, experiment: str) -> None:
    run = train(f"experiment={experiment}", *SMALL[1:], "trainer=fast", "trainer.accelerator=cpu")
    assert run.status == 0, run.err


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run(train: Train) -> None:
    run = train(*SMALL)
    assert run.status == 0, run.err
    for term in ("total", *TERMS):
        assert len(column(run.folder, f"train/{term}")) == 4, term
    assert sum(weight * column(run.folder, f"train/{term}")[0] for term, weight in TERMS.items()) == pytest.approx(
        column(run.folder, "train/total")[0], rel=1e-4
    )
    assert (run.folder / "pictures").is_dir()
    assert "NO IMAGENET" not in run.err


def test_checkpoint_brings_its_own_encoder(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(*SMALL, "trainer.max_epochs=1", "test=false")
    assert run.status == 0, run.err
    path = run.folder / "checkpoints/last.ckpt"
    assert torch.load(path, weights_only=True)["reflectzoo"]["encoder"] == "random"
    monkeypatch.setattr(module, "fill_encoder", lambda *_: pytest.fail("a checkpoint must not be written over"))
    model, saved = reflectzoo.load_model(path), state(run)
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    mixture = torch.rand(1, 3, 37, 51)
    with torch.no_grad():
        assert torch.equal(model(mixture)["transmission"], reflectzoo.load_model(path)(mixture)["transmission"])


def test_a_new_model_fills_its_encoder_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(module, "fill_encoder", lambda net, source: calls.append(source) or fill_encoder(net, "random"))
    model = reflectzoo.create_model("corrn", "model.net.width=8", "model.vgg=imagenet")
    model.attach_vgg()
    assert calls == ["imagenet"], "model.encoder follows model.vgg"
    assert model.vgg_used is None, "no term of the loss looks through a VGG-19"


def test_resuming_gives_the_uninterrupted_run(train: Train) -> None:
    # Without a score to watch, last.ckpt is written after every epoch and not only after a better one.
    common = (*SMALL, "test=false", "callbacks.best.monitor=null")
    whole = train(*common, folder="whole")
    half = train(*common, "trainer.max_epochs=1", folder="half")
    rest = train(*common, f"ckpt_path={half.folder}/checkpoints/last.ckpt", folder="rest")
    assert whole.status == half.status == rest.status == 0, rest.err
    expected, found = state(whole), state(rest)
    # Running statistics and their counters, too.
    assert int(expected["net.deconv0R.0.bn.num_batches_tracked"]) == 3 * 4
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


def test_bf16(train: Train) -> None:
    run = train(
        *SMALL, "trainer=fast", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", "data.crop=16", "test=false"
    )
    assert run.status == 0, run.err
    assert all(value == value for value in column(run.folder, "train/total"))


def test_one_small_crop_is_told_in_a_sentence(train: Train) -> None:
    run = train(*SMALL, "data.batch_size=1")
    assert run.status == 2
    assert "set a larger data.crop or data.batch_size" in run.sentence


def test_a_loss_for_another_network_is_told_in_a_sentence(train: Train) -> None:
    run = train(*SMALL, "model.net.gradient_decoder=false")
    assert run.status == 2
    assert "~loss.terms.<name>" in run.sentence


def test_any_method_may_use_the_terms(train: Train) -> None:
    run = train(
        *("model=ytmt_pcs", "loss=corrn", "~loss.terms.gradient", *TINY, "data.eval_crop=32"),
        *("trainer=fast", "trainer.accelerator=cpu", "test=false"),
    )
    assert run.status == 0, run.err
    assert column(run.folder, "train/transmission_statistic")


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """By the real command; tests/training/test_scale.py compares curves, test_corrn_statistic.py the normalisation."""
    run = command(
        "reflectzoo.train",
        *SMALL,
        *("trainer=ddp", "trainer.accelerator=cpu", "test=false", "hydra.run.dir=run", "trainer.max_epochs=1"),
        "data.samples_per_epoch=8",
        cwd=tmp_path,
    )
    assert run.status == 0, run.err
    assert len(column(tmp_path / "run", "train/total")) == 2  # 8 samples, twice 2 at a time
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_the_papers_data(train: Train, tmp_path: Path) -> None:
    """Whole pictures of two sizes in turn; narrow ones that are no multiples of 32."""
    rng = np.random.default_rng(0)
    for kind in ("reflections", "backgrounds"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for index in range(6):
            picture = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / kind / f"{index}.png")
    run = train(
        *("model=corrn", "data=rid", f"data.root={tmp_path}/photos", "data.sizes=[[32,48],[64,72]]"),
        *("data.eval_size=[32,48]", "model.net.width=8", "model.vgg=random", "trainer=fast", "trainer.accelerator=cpu"),
        "trainer.log_every_n_steps=1",
    )
    assert run.status == 0, run.err
    assert len(column(run.folder, "train/transmission_statistic")) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_full_size_network_learns_four_photographs_by_heart() -> None:
    config = compose_config(["model=corrn", "data=sample", "data.crop=64", "data.batch_size=4", "data.num_workers=0"])
    loss, data = build(config.loss), build(config.data)
    data.setup("fit")
    batch = data.complete_batch(next(iter(data.train_dataloader())))
    torch.manual_seed(0)
    net = CoRRNNet()
    assert sum(weight.numel() for weight in net.parameters()) == 59_512_039

    def psnr(image: torch.Tensor) -> float:
        return float(-10 * (image - batch["transmission"]).square().mean(dim=(1, 2, 3)).log10().mean())

    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        total, _ = loss(net(batch["mixture"]), batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        found = psnr(net(batch["mixture"])["transmission"])
    print(f"\ninput {psnr(batch['mixture']):.2f} dB, output {found:.2f} dB")
    assert found > psnr(batch["mixture"]) + 4
