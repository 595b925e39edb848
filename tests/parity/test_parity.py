"""The recorded cases, and the command that runs a folder of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SHARED, command
from torch import nn

from reflectzoo.nets.discriminators import DiscriminatorVGG
from reflectzoo.parity import (
    Comparison,
    Fixture,
    ParityError,
    build_state_dict,
    check_parameter_count,
    compare_outputs,
    compare_scalar,
    load_recorded_weights,
    recorded_input,
    rule_state_dict,
    rule_vgg,
)
from reflectzoo.parity.__main__ import main
from reflectzoo.parity.report import run_folder
from reflectzoo.parity.rule import rule_array, state_dict_sha256

RECORDED = Path(__file__).parent / "recorded"
QUICK = "ytmt_disc_patch"


# -- what was recorded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["hypercolumn", "synthesis_ceilnet", "ytmt_disc_vgg", "losses_errnet_unaligned", QUICK]
)
def test_recorded_cases(name: str) -> None:
    """The networks' are in tests/methods."""
    lines = run_folder(RECORDED, [name])
    assert lines
    assert [line.verdict for line in lines] == ["pass"] * len(lines), "\n".join(map(str, lines))


def test_recorded_ytmt_losses() -> None:
    """Both totals through the configured loss; what the zoo does not have is said."""
    (line,) = run_folder(RECORDED, ["losses_ytmt"])
    assert line.verdict == "pass", str(line)
    assert line.remark == "not in the SIRS total, skipped: reconsx_pred_t_vs_input, mtv, ssim_loss_t"


@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="../shared/parity is not beside this repository")
def test_shared_recordings() -> None:
    lines = run_folder(SHARED / "parity", ["synthesis_ceilnet", "ytmt_pas/c72x88_two", "ytmt_disc_vgg", "errnet"])
    verdicts = {line.name: line.verdict for line in lines}
    assert len(verdicts) == 9
    assert set(verdicts.values()) == {"pass"}, "\n".join(map(str, lines))


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of two quick recordings that may be spoilt."""
    for name in (QUICK, "synthesis_ceilnet"):
        for suffix in (".json", ".npz"):
            shutil.copy(RECORDED / f"{name}{suffix}", tmp_path)
    return tmp_path


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def change_array(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = dict(np.load(path))
    arrays[name] = change(arrays[name])
    np.savez(path, **arrays)


def test_one_line_a_case_and_a_summary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "synthesis_ceilnet/bright_1",
        "synthesis_ceilnet/dark_0",
        "ytmt_disc_patch/c64x64",
        "ytmt_disc_patch/c72x88",
    ]
    for line in lines[:-1]:
        _name, difference, tolerance, verdict = line.split()
        assert float(difference) <= float(tolerance) <= 1e-4
        assert verdict == "pass"
    assert lines[-1].startswith("4 cases: 4 pass, 0 FAIL, 0 no such method yet")


@pytest.mark.parametrize("spoil", [lambda array: array + 2e-5, lambda array: array * np.nan])
def test_a_changed_value_fails_and_the_others_go_on(folder: Path, capsys: pytest.CaptureFixture[str], spoil) -> None:
    change_array(folder / "synthesis_ceilnet.npz", "dark_0.out.m", spoil)
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines[:-1]] == ["pass", "FAIL", "pass", "pass"]
    assert lines[1].endswith("(m; 1 of 15 comparisons fail)")
    assert lines[-1].startswith("4 cases: 3 pass, 1 FAIL")


def test_changed_statistics_fail(folder: Path) -> None:
    change_json(
        folder / f"{QUICK}.json", lambda data: data["cases"][0]["outputs"][0].update(stats={"min": 0.0, "max": 99.0})
    )
    first, second = run_folder(folder, [QUICK])
    assert (first.verdict, second.verdict) == ("FAIL", "pass")
    assert first.remark.startswith("max of logit")


def test_a_changed_loss_value_fails(tmp_path: Path) -> None:
    shutil.copy(RECORDED / "losses_ytmt.npz", tmp_path)
    shutil.copy(RECORDED / "losses_ytmt.json", tmp_path)

    def spoil(data: dict[str, Any]) -> None:
        data["cases"][0]["values"] = {"stage2_total_g": 2.1994 * 1.0001, "mtv": 1.0}
        data["cases"][0]["values_float64"] = {}
        data["cases"][0]["outputs"] = []

    change_json(tmp_path / "losses_ytmt.json", spoil)
    (line,) = run_folder(tmp_path)
    assert line.verdict == "FAIL"
    assert line.remark == "stage2_total_g in float32; 1 of 1 comparisons fail"
    change_json(tmp_path / "losses_ytmt.json", lambda data: data["cases"][0]["values"].update(unheard_of=1.0))
    (line,) = run_folder(tmp_path)
    assert line.remark == "no loss value 'unheard_of' is known"


def test_recordings_are_known_by_their_content_and_not_by_their_file(folder: Path) -> None:
    for name, other in ((QUICK, "a"), ("synthesis_ceilnet", "b")):
        for suffix in (".json", ".npz"):
            (folder / f"{name}{suffix}").rename(folder / f"{other}{suffix}")
        change_json(folder / f"{other}.json", lambda data: data.update(name="seed 7"))
    assert [line.verdict for line in run_folder(folder)] == ["pass"] * 4


def test_unknown_methods_do_not_fail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_json(folder / f"{QUICK}.json", lambda data: data.update({"class": "Oracle", "name": "oracle"}))
    assert main([str(folder), "--only", "oracle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=3) for line in lines[:-1]] == [
        ["oracle/c64x64", "-", "-", "no such method yet"],
        ["oracle/c72x88", "-", "-", "no such method yet"],
    ]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damage_an_array(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000:5400] = bytes(400)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: _cut(folder / f"{QUICK}.npz"), "ytmt_disc_patch.npz cannot be read as npz"),
        (lambda folder: _cut(folder / f"{QUICK}.json"), "ytmt_disc_patch.json cannot be read as json"),
        (lambda folder: (folder / f"{QUICK}.npz").unlink(), "ytmt_disc_patch.npz is missing beside"),
        (lambda folder: (folder / f"{QUICK}.json").unlink(), "ytmt_disc_patch.json is missing beside"),
        (lambda folder: (folder / f"{QUICK}.json").write_text("[]"), "not a recording in the form sirr-parity/1"),
        (lambda folder: _damage_an_array(folder / f"{QUICK}.npz"), "ytmt_disc_patch.npz is damaged"),
        (
            lambda folder: change_json(folder / f"{QUICK}.json", lambda data: data["state_dict"][0].update(gain=1.5)),
            "weight 'model.0.weight' has crc32",
        ),
        (
            lambda folder: change_json(folder / f"{QUICK}.json", lambda data: data["state_dict"].pop()),
            "have sha256",
        ),
        (
            lambda folder: change_json(folder / f"{QUICK}.json", lambda data: data.update(parameter_count=7)),
            "has 2764737 parameters, but 7 are recorded",
        ),
        (
            lambda folder: change_json(folder / f"{QUICK}.json", lambda data: data["constructor"].update(dropout=1)),
            "unknown arguments dropout",
        ),
    ],
)
def test_a_broken_recording_fails_and_the_others_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str], spoil, reason
) -> None:
    spoil(folder)
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines[:2]] == ["pass", "pass"]
    assert "FAIL" in lines[2]
    assert reason in lines[2]


def _missing(folder: Path) -> Path:
    return folder / "nowhere"


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    (folder / "empty" / "README.md").write_text("nothing here")
    return folder / "empty"


def _unreadable(folder: Path) -> Path:
    for path in folder.glob("*.json"):
        _cut(path)
    return folder


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_missing, "nowhere is not a folder"),
        (_empty, "empty holds no recorded cases"),
        (_unreadable, "can be read: synthesis_ceilnet.json cannot be read as json"),
    ],
)
def test_a_useless_folder_is_the_users_mistake(
    folder: Path, capsys: pytest.CaptureFixture[str], spoil, sentence
) -> None:
    assert main([str(spoil(folder))]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_other_json_files_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.json").write_text('{"files": 2}')
    assert main([str(folder), "--only", f"{QUICK}/c64x64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "manifest.json is not a recording, left out"
    assert lines[-1].startswith("1 cases: 1 pass")


def test_a_runner_that_cannot_make_sense_of_a_recording_does_not_stop_the_others(folder: Path) -> None:
    change_json(folder / f"{QUICK}.json", lambda data: data.update(source=["?"]))
    lines = run_folder(folder)
    assert [line.verdict for line in lines] == ["pass", "pass", "FAIL", "FAIL"]
    assert lines[2].remark.startswith("AttributeError")


def test_only_suggests_the_nearest_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--only", "synthesis_cielnet"]) == 2
    assert "did you mean synthesis_ceilnet?" in capsys.readouterr().err


def test_only_takes_cases_and_wildcards(folder: Path) -> None:
    assert [line.name for line in run_folder(folder, ["*/dark_0", "ytmt_disc_patch/c64*"])] == [
        "synthesis_ceilnet/dark_0",
        "ytmt_disc_patch/c64x64",
    ]


def test_as_a_command(folder: Path, tmp_path: Path) -> None:
    change_array(folder / "synthesis_ceilnet.npz", "dark_0.out.m", lambda array: array + 1)
    run = command("reflectzoo.parity", str(folder), "--only", "synthesis_ceilnet", cwd=tmp_path)
    assert run.status == 1, run.err
    assert [line.split()[3] for line in run.out.splitlines()[:-1]] == ["pass", "FAIL"]


# -- the weights rule ------------------------------------------------------------------------------------------------


def test_rule_by_hand() -> None:
    normal = np.random.default_rng(zlib.crc32(b"a.weight")).standard_normal((2, 3, 1, 2))
    assert np.array_equal(rule_array("a.weight", (2, 3, 1, 2), "conv", 3.0), (normal * 3 / 6**0.5).astype(np.float32))
    normal = np.random.default_rng(zlib.crc32(b"b")).standard_normal((4,))
    for kind, expected in {
        "bias": 0.1 * normal,
        "norm_weight": 1 + 0.1 * normal,
        "running_mean": 0.1 * normal,
        "running_var": 1 + 0.1 * abs(normal),
        "prelu": np.full(4, 0.25),
    }.items():
        assert np.array_equal(rule_array("b", (4,), kind), expected.astype(np.float32)), kind
    count = rule_array("c", (), "num_batches")
    assert (count.dtype, count.shape, count.item()) == (np.int64, (), 0)


def test_state_dict_from_records() -> None:
    records = [
        {"key": "tied", "shape": [2, 3], "kind": "linear", "gain": 1.0, "alias_of": "z"},
        {"key": "z", "shape": [2, 3], "kind": "linear", "gain": 1.0, "seed_key": "net2.z"},
    ]
    state = build_state_dict(records)
    assert list(state) == ["tied", "z"]
    assert torch.equal(state["tied"], state["z"])
    assert np.array_equal(state["z"].numpy(), rule_array("net2.z", (2, 3), "linear", 1.0))
    whole = hashlib.sha256(2 * state["z"].numpy().tobytes()).hexdigest()
    assert state_dict_sha256(state) == whole
    build_state_dict(records, whole)
    with pytest.raises(ParityError, match="sha256"):
        build_state_dict(records, "0" * 64)
    with pytest.raises(ParityError, match="'z' has crc32"):
        build_state_dict([{**records[1], "crc32": "00000000"}])
    with pytest.raises(ParityError, match="lacks 'z'"):
        build_state_dict(records[:1])
    with pytest.raises(ParityError, match="unknown kind 'magic'"):
        build_state_dict([{"key": "a", "shape": [1], "kind": "magic"}])
    with pytest.raises(ParityError, match="needs a gain"):
        build_state_dict([{"key": "a", "shape": [1, 1], "kind": "conv"}])
    with pytest.raises(ParityError, match="twice"):
        build_state_dict([records[1], records[1]])


@pytest.mark.parametrize("name", ["hypercolumn", "ytmt_disc_vgg"])
def test_rule_without_records_gives_the_recorded_weights(name: str) -> None:
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    if name == "hypercolumn":
        state = dict(rule_vgg().state_dict())
    else:
        state = rule_state_dict(DiscriminatorVGG(), gain=1.6, exceptions={"tail.3.weight": 4.0})
    assert list(state) == [record["key"] for record in recorded["state_dict"]]
    assert state_dict_sha256(state) == recorded["weights"]["sha256"]


def test_rule_knows_the_layers() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.PReLU(2))
    state = rule_state_dict(net, gain=2.0)
    net.load_state_dict(state)
    assert state["1.weight"].tolist() == rule_array("1.weight", (2,), "norm_weight").tolist()
    assert state["1.running_var"].min() >= 1
    assert state["2.weight"].tolist() == [0.25, 0.25]
    with pytest.raises(ParityError, match=r"no such weights: 7\.weight"):
        rule_state_dict(net, gain=2.0, exceptions={"7.weight": 1.0})
    net.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(ParityError, match="'scale'"):
        rule_state_dict(net, gain=2.0)


def fixture_of(state: list[dict[str, Any]], **arrays: np.ndarray) -> Fixture:
    return Fixture("made_up", {"name": "made_up", "cases": [], "state_dict": state, "parameter_count": 3}, arrays)


def test_weights_load_strictly_and_in_order() -> None:
    weight = {"key": "weight", "shape": [1, 2], "kind": "linear", "gain": 1.0}
    bias = {"key": "bias", "shape": [1], "kind": "bias"}
    net = nn.Linear(2, 1)
    load_recorded_weights(net, fixture_of([weight, bias]))
    assert np.array_equal(net.weight.detach().numpy(), rule_array("weight", (1, 2), "linear", 1.0))
    check_parameter_count(net, fixture_of([]))
    with pytest.raises(ParityError, match="1 of ours are not recorded \\(first 'bias'\\), 0 recorded"):
        load_recorded_weights(net, fixture_of([weight]))
    with pytest.raises(ParityError, match="1 recorded are not ours \\(first 'extra'\\)"):
        load_recorded_weights(net, fixture_of([weight, bias, {**bias, "key": "extra"}]))
    with pytest.raises(ParityError, match="another order, from 'weight' on"):
        load_recorded_weights(net, fixture_of([bias, weight]))
    with pytest.raises(ParityError, match="'weight' is \\(1, 2\\), but \\(1, 3\\)"):
        load_recorded_weights(net, fixture_of([{**weight, "shape": [1, 3]}, bias]))
    with pytest.raises(ParityError, match="has 5 parameters, but 3"):
        check_parameter_count(nn.Linear(4, 1), fixture_of([]))


# -- reading and comparing -------------------------------------------------------------------------------------------


def test_an_input_given_by_a_rule_is_read_and_not_executed() -> None:
    expected = np.random.default_rng(12345).random((1, 2, 3), dtype=np.float32)
    spec = {
        "name": "x",
        "shape": [1, 2, 3],
        "rule": "numpy.random.default_rng(12345).random((1, 2, 3), dtype=numpy.float32)",
        "sha256": hashlib.sha256(expected.tobytes()).hexdigest(),
    }
    empty = fixture_of([])
    assert np.array_equal(recorded_input(empty, spec).numpy(), expected)
    with pytest.raises(ParityError, match="another sha256"):
        recorded_input(empty, {**spec, "sha256": "0" * 64})
    with pytest.raises(ParityError, match="recorded as \\(1, 2, 4\\)"):
        recorded_input(empty, {**spec, "shape": [1, 2, 4]})
    for rule in ("__import__('os').getcwd()", spec["rule"] + ".sum()", spec["rule"].replace("12345", "f()")):
        with pytest.raises(ParityError, match="unknown form"):
            recorded_input(empty, {**spec, "rule": rule})
    with pytest.raises(ParityError, match="neither stored"):
        recorded_input(empty, {"name": "x"})
    with pytest.raises(ParityError, match="holds no array 'y'"):
        recorded_input(empty, {"name": "x", "npz": "y"})


def test_strided_outputs_and_statistics_of_the_whole() -> None:
    whole = torch.arange(2 * 4 * 6 * 5, dtype=torch.float32).reshape(2, 4, 6, 5)
    stored = whole.numpy()[:, ::2, ::3, ::3]
    spec = {
        "name": "t",
        "shape": [2, 4, 6, 5],
        "npz": "a",
        "channel_stride": 2,
        "spatial_stride": 3,
        "stats": {"min": 0, "max": 239, "mean": 119.5, "std": float(whole.numpy().std())},
    }
    fixture = fixture_of([], a=stored)
    good = compare_outputs(fixture, [spec], {"t": whole}, 1e-4)
    assert [comparison.what for comparison in good] == ["t", "min of t", "max of t", "mean of t", "std of t"]
    assert all(comparison.passed for comparison in good)
    unseen = whole.clone()
    unseen[0, 1, 1, 1] = -5
    found = {one.what: one.passed for one in compare_outputs(fixture, [spec], {"t": unseen}, 1e-4)}
    assert found["t"]
    assert not found["min of t"]
    with pytest.raises(ParityError, match="'t' is"):
        compare_outputs(fixture, [spec], {"t": whole[:1]}, 1e-4)
    with pytest.raises(ParityError, match="returns only r"):
        compare_outputs(fixture, [spec], {"r": whole}, 1e-4)


def test_a_difference_passes_up_to_its_tolerance_and_nan_never() -> None:
    assert compare_scalar("a", 2.00001, 2.0, 1e-5).passed
    assert not compare_scalar("a", 2.00003, 2.0, 1e-5).passed
    assert not compare_scalar("a", 1e-4, 0.0, 1e-5).passed
    assert not Comparison("a", float("nan"), 1.0).passed
    assert Comparison("a", float("nan"), 1.0).severity == float("inf")
