"""The sprint: trains by the clock, goes on where it stopped, begins with an older lite, and draws what it should."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.nn import functional as F

from reflectzoo.config import build, compose_config
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.data.synthesis.optics import to_linear
from reflectzoo.errors import UserError
from reflectzoo.methods.lite import sprint
from reflectzoo.methods.lite.bank import Bank, BankPair, Crops, Draws, glass_transmittance, load_bank
from reflectzoo.methods.lite.net import LiteNet
from reflectzoo.methods.lite.net_2 import LiteNet2

NARROW = {"widths": [8, 8, 8, 8], "blocks": [1, 1, 1, 1], "stream_widths": [4, 4, 4], "stream_blocks": [1, 1, 1]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs, and three pairs of two scenes whose mixtures are their truths, brighter by 20."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("photos", "pairs/blended", "pairs/transmission_layer"):
        (root / name).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(root / "photos" / f"{number}.png")
    for name in ("1-1", "1-2", "lamp"):
        truth = rng.integers(0, 200, (70, 72, 3), dtype=np.uint8)
        Image.fromarray(truth).save(root / "pairs" / "transmission_layer" / f"{name}.png")
        Image.fromarray(truth + np.uint8(20)).save(root / "pairs" / "blended" / f"{name}.png")
    return root


def arguments(pictures: Path, out: Path, *more: str, minutes: float = 0.01) -> list[str]:
    return [
        str(out), "--photos", str(pictures / "photos"), "--pairs", str(pictures / "pairs"), "--val-pairs",
        str(pictures / "pairs"), "--minutes", str(minutes), "--crop", "32", "64", "--grow-at", "0.5", "--batch", "4",
        "--net", json.dumps(NARROW), *more,
    ]  # fmt: skip


def test_it_trains_stops_by_the_clock_and_goes_on(pictures: Path, tmp_path: Path) -> None:
    assert sprint.main(arguments(pictures, tmp_path)) == 0
    first = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(first[0]["minutes"]) == 0
    assert int(first[-1]["step"]) > 0
    assert float(first[-1]["real_gain"]) == pytest.approx(float(first[-1]["real"]) - 22.11, abs=0.02)
    assert sprint.main(arguments(pictures, tmp_path, minutes=0.02)) == 0
    second = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert int(second[-1]["step"]) > int(first[-1]["step"])
    net = LiteNet2(**NARROW)
    sprint.warm_start(net, sprint.read_state(tmp_path))
    assert net.out_l.weight.abs().max() > 0


def test_it_begins_with_lite_1_and_says_the_same(tmp_path: Path) -> None:
    torch.manual_seed(3)
    old = LiteNet(**NARROW)
    for each in old.parameters():
        torch.nn.init.normal_(each, std=0.1)
    save_file({f"net.{name}": value for name, value in old.state_dict().items()}, tmp_path / "old.safetensors")
    new = LiteNet2(**NARROW)
    sprint.warm_start(new, sprint.read_state(tmp_path / "old.safetensors"))
    mixture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for layer in ("transmission", "reflection"):
            torch.testing.assert_close(new(mixture)[layer], old(mixture)[layer])


def test_new_joint_blocks_say_the_same() -> None:
    torch.manual_seed(0)
    old = LiteNet2(**NARROW)
    for parameter in old.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    new = LiteNet2(**NARROW, joint_blocks=(1, 0, 2))
    sprint.warm_start(new, old.state_dict())
    mixture = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = old.eval()(mixture), new.eval()(mixture)
    assert torch.equal(found["transmission"], expected["transmission"])
    assert torch.equal(found["reflection"], expected["reflection"])


def test_the_network_of_a_sprint_is_that_of_model_lite() -> None:
    with torch.device("meta"):
        mine = LiteNet2(**sprint.net_settings(None)).state_dict()
        theirs = build(compose_config(["model=lite"]).model.net).state_dict()
    assert {name: each.shape for name, each in mine.items()} == {name: each.shape for name, each in theirs.items()}
    assert sprint.net_settings('{"blocks": [1, 1, 1, 1]}') == {"blocks": [1, 1, 1, 1]}


def _member(rank: int, port: str, words: list[str], answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    run = sprint.Run(sprint.arguments().parse_args(words))
    shared = (run.team.same(7.0 + rank), run.team.any(rank == 1), run.team.any(False))
    drawn = float(run.draws.batch(4, 32).mixture.sum())
    run.go()
    answers.put((rank, shared, drawn, run.step, run.seen, run.net.out_l.weight.tolist()))


def test_processes_draw_different_crops_and_learn_the_same(pictures: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers, port = context.Queue(), str(get_free_port())
    words = arguments(pictures, tmp_path, "--grow-at", "1")
    processes = [context.Process(target=_member, args=(rank, port, words, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    (_, *first), (_, *second) = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]
    assert first[0] == second[0] == (7.0, True, False)
    assert first[1] != second[1]
    assert first[2:] == second[2:]
    step, seen = first[2:4]
    assert step > 0
    assert seen == 2 * 4 * step
    assert torch.tensor(first[4]).any()
    assert len(list(csv.DictReader((tmp_path / "log.csv").open()))) == 2


def test_pieces_are_small_and_a_missing_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sprint, "_PIECE", 5000)
    state = {f"{number}": torch.full((1000,), float(number)).half() for number in range(5)}
    sprint.write_pieces(tmp_path, state)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"average-{number}-of-3.safetensors" for number in (1, 2, 3)]
    assert all(file.stat().st_size < 5500 for file in files)
    read = sprint.read_state(tmp_path)
    assert {name: value[0].item() for name, value in read.items()} == {str(number): number for number in range(5)}
    files[1].unlink()
    with pytest.raises(UserError, match="lacks some pieces"):
        sprint.read_state(tmp_path)


def drawn(pictures: Path, **shares: float) -> Draws:
    known = load_bank([pictures / "photos"], [pictures / "pairs"], torch.device("cpu"))
    chosen = {"real": 0.5, "moved": 0.5} | shares
    return Draws(known, CEILNetSynthesis(), chosen["real"], chosen["moved"], np.random.default_rng(0))


def test_pairs_are_cut_at_one_place_and_scenes_are_equally_likely(pictures: Path) -> None:
    draws = drawn(pictures)
    assert sorted(len(scene) for scene in draws.bank.scenes) == [1, 2]
    strengths = []
    for _ in range(40):
        mixture, truth, reflection = draws.pair(32)
        assert mixture.shape == truth.shape == reflection.shape == (3, 32, 32)
        # What the glass added, in linear light, times one factor.
        full = to_linear(truth + 20 / 255) - to_linear(truth)
        factors = (to_linear(mixture) - to_linear(truth)) / full
        assert factors.std() < 1e-3
        strengths.append(float(factors.mean()))
    unchanged = [each for each in strengths if abs(each - 1) < 1e-4]
    assert 10 < len(unchanged) < 30
    assert 0.3 <= min(strengths) < 0.6
    assert 1.0 < max(strengths) <= 1.3


def test_a_moved_reflection_is_what_the_glass_added() -> None:
    """Glass that passes 0.8 of the light and adds 0.05: the same over another scene, in linear light."""
    rng = torch.Generator().manual_seed(0)
    scene, other = (F.interpolate(torch.rand(1, 3, 8, 8, generator=rng), (96, 96))[0] * 0.6 + 0.1 for _ in range(2))
    scene[:, 48:, 48:] = 0.3
    added = torch.zeros(3, 96, 96)
    added[:, :24] = 0.05
    mixture = (0.8 * scene**2.2 + added) ** (1 / 2.2)
    pictures = [(each * 255).round().to(torch.uint8) for each in (mixture, scene)]
    share = glass_transmittance(*pictures)
    torch.testing.assert_close(share, torch.full((3, 1, 1), 0.8), atol=0.02, rtol=0)
    known = Bank([(other * 255).round().to(torch.uint8)], [[BankPair(*pictures, share)]])
    draws = Draws(known, CEILNetSynthesis(), 1.0, 1.0, np.random.default_rng(1))
    strengths = []
    for _ in range(20):
        made, truth, reflection = draws.move(96)
        difference = made**2.2 - share * truth**2.2
        torch.testing.assert_close(reflection**2.2, difference, atol=1e-4, rtol=0)
        strengths.append(float(difference.mean() / (0.05 / 4)))
    assert 0.4 < min(strengths) < 1
    assert 1.8 < max(strengths) < 3.5


def test_passed_is_all_where_the_scene_is_dark() -> None:
    dark = torch.zeros(3, 40, 40, dtype=torch.uint8)
    assert glass_transmittance(dark + 40, dark).tolist() == [[[1.0]]] * 3


def test_batches_hold_what_was_asked_for(pictures: Path) -> None:
    torch.manual_seed(0)
    only_real = drawn(pictures, real=1.0, moved=0.0).batch(5, 32)
    assert (only_real.mixture >= only_real.transmission).all()
    mixed = drawn(pictures, real=0.0).batch(5, 32)
    for crops in (only_real, mixed, drawn(pictures, real=1.0, moved=1.0).batch(5, 32)):
        assert crops.mixture.shape == crops.transmission.shape == crops.reflection.shape == (5, 3, 32, 32)
        assert 0 <= crops.mixture.min() <= crops.mixture.max() <= 1


def test_products_are_the_convolutions_they_replace() -> None:
    torch.manual_seed(0)
    net = LiteNet2(**NARROW)
    for each in net.parameters():
        torch.nn.init.normal_(each, std=0.1)
    mixture = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        before = net(mixture)["transmission"]
        sprint.pointwise_as_products(net)
        torch.testing.assert_close(net(mixture)["transmission"], before)


def test_the_loss_is_zero_information_at_the_truth() -> None:
    """At the truth only the floor of the logarithm remains, and any change costs."""
    truth = torch.rand(2, 3, 32, 32)
    crops = Crops(truth, truth, torch.zeros_like(truth))
    best = sprint.loss_of(truth, torch.zeros_like(truth), crops)
    assert best.item() == pytest.approx(0.05 * np.log(1e-4), abs=1e-4)
    assert sprint.loss_of(truth + 0.01, torch.zeros_like(truth), crops) > best
    assert sprint.loss_of(truth, torch.full_like(truth, 0.5), crops).item() == pytest.approx(
        best.item() + 0.1, abs=1e-6
    )


@pytest.mark.parametrize(("unit", "expected"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_f", False)])
def test_bfloat16_only_where_the_processor_has_it(unit: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True})
    assert sprint.computes_fast_in_bfloat16(torch.device("cpu")) is expected
    assert sprint.computes_fast_in_bfloat16(torch.device("cuda"))


def test_without_a_compiler_one_sentence_says_so(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        assert sprint.main(arguments(pictures, tmp_path, "--compile")) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "needs a C++ compiler, and found none" in said[0]


def test_features_learn_from_the_chosen_block_on(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sprint.read_state(random_weights(tmp_path))
    start = ["--start", str(tmp_path / "random.safetensors")]
    assert sprint.main(arguments(pictures, tmp_path / "frozen", *start)) == 0
    assert sprint.main(arguments(pictures, tmp_path / "out", *start, "--unfreeze", "11", minutes=0.02)) == 0
    # It also resumes with them.
    assert sprint.main(arguments(pictures, tmp_path / "out", *start, "--unfreeze", "11", minutes=0.04)) == 0
    assert sprint.main(arguments(pictures, tmp_path / "out", *start, minutes=0.06)) == 2
    assert "another --net or --unfreeze" in capsys.readouterr().err
    features = [name for name in before if name.startswith("features.")]
    frozen, after = (sprint.read_state(tmp_path / name) for name in ("frozen", "out"))
    assert all(torch.equal(frozen[name], before[name].half().float()) for name in features)
    changed = {name for name in features if not torch.equal(after[name], frozen[name])}
    assert changed
    assert {int(name.split(".")[2]) for name in changed} == set(range(11, 16))


def random_weights(folder: Path) -> Path:
    torch.manual_seed(5)
    net = LiteNet2(**NARROW)
    for each in net.seen:
        torch.nn.init.normal_(each.weight, std=0.1)
    path = folder / "random.safetensors"
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    "fault",
    ["no folder", "no truth", "another size", "other weights", "no settings", "no such block", "nothing to unfreeze"],
)
def test_mistakes_in_one_sentence(
    fault: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more: list[str] = []
    if fault == "no folder":
        more, words = ["--photos", str(tmp_path / "nowhere")], "is not a folder"
    elif fault == "no truth":
        (tmp_path / "lone" / "blended").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "lone" / "blended" / "1.png")
        more, words = ["--pairs", str(tmp_path / "lone")], "has no ground truth"
    elif fault == "another size":
        for name, size in (("blended", (64, 64)), ("transmission_layer", (64, 65))):
            (tmp_path / "odd" / name).mkdir(parents=True)
            Image.new("RGB", size).save(tmp_path / "odd" / name / "1.png")
        more, words = ["--pairs", str(tmp_path / "odd")], "64x64 and 64x65 pixels"
    elif fault == "no settings":
        more, words = ["--net", "joint_blocks=4"], "takes a JSON object"
    elif fault == "no such block":
        more, words = ["--unfreeze", "16"], "have blocks 0 to 15, got 16"
    elif fault == "nothing to unfreeze":
        more = ["--unfreeze", "5", "--net", json.dumps({**NARROW, "features": "none"})]
        words = "has no ImageNet features"
    else:
        save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
        more, words = ["--start", str(tmp_path / "other.safetensors")], "not lite's"
    assert sprint.main(arguments(pictures, tmp_path / "out", *more)) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_the_mean_of_two_runs(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("1", "2"):
        assert sprint.main(arguments(pictures, tmp_path / seed, "--seed", seed)) == 0
    one, two = (sprint.read_state(tmp_path / seed)["out_l.weight"] for seed in ("1", "2"))
    earlier = tmp_path / "earlier.safetensors"
    net = ["--net", json.dumps(NARROW)]
    assert sprint.main([str(tmp_path / "1"), "--pack", str(earlier), *net]) == 0
    both = tmp_path / "both.safetensors"
    assert sprint.main([str(tmp_path / "2"), "--pack", str(both), "--blend", str(earlier), "0.75", *net]) == 0
    torch.testing.assert_close(sprint.read_state(both)["out_l.weight"], 0.75 * two + 0.25 * one, atol=1e-3, rtol=1e-3)
    joint = LiteNet2(**NARROW, joint_blocks=(1, 0, 0))
    sprint.write_pieces(tmp_path / "1", {name: each + 0.5 for name, each in joint.state_dict().items()})
    grown = ["--net", json.dumps({**NARROW, "joint_blocks": [1, 0, 0]})]
    assert sprint.main([str(tmp_path / "1"), "--pack", str(both), "--blend", str(earlier), "0.25", *grown]) == 0
    blended = sprint.read_state(both)
    assert torch.equal(blended["joint.0.0.narrow.weight"], torch.full_like(blended["joint.0.0.narrow.weight"], 0.125))
    expected = joint.state_dict()["joint.0.0.widen.weight"] + 0.5
    torch.testing.assert_close(blended["joint.0.0.widen.weight"], expected, atol=1e-3, rtol=1e-3)
    for share in ("1.5", "nan", "half"):
        assert sprint.main([str(tmp_path / "2"), "--pack", str(both), "--blend", str(earlier), share, *net]) == 2
        assert "a number from 0 to 1" in capsys.readouterr().err
