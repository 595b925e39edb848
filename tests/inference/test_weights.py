"""Weights of any layout, with their story; downloads that go on where they broke off."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reflectzoo
from reflectzoo.errors import UserError
from reflectzoo.inference.convert import convert
from reflectzoo.inference.load import LoadedModel, default_model, read_safetensors
from reflectzoo.weights import download as download_module
from reflectzoo.weights import records as records_module
from reflectzoo.weights.download import DownloadError, download
from reflectzoo.weights.records import WeightRecord, locate, records


def small(name: str, *overrides: str) -> LoadedModel:
    torch.manual_seed(len(name))
    model = reflectzoo.load_model(name, None, *overrides, untrained=True)
    for parameter in model.net.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.enter_last_phase()


def authors_file(model: LoadedModel, path: Path) -> Path:
    """The weights as the authors' program keeps them."""
    state = model.net.state_dict()
    content: dict[str, Any]
    if model.name.startswith("ytmt"):
        parts = {name: {} for name in ("icnn", "icnn2") if any(key.startswith(f"{name}.") for key in state)}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            if first in parts:
                parts[first][f"module.{rest}"] = value
        content = {**(parts or {"icnn": dict(state)}), "epoch": 68, "iterations": 1, "opt_g": {"state": {}}}
    elif model.name == "errnet":
        content = {"icnn": dict(state), "opt_g": {"state": {}}, "epoch": 60, "iterations": 463920, "netD": {}}
    elif model.name == "corrn":
        content = {"epoch": 40, "state_dict": dict(state), "optimizer": {}}
    else:
        content = {}
        for key, value in state.items():
            if key.startswith("lstm.gates."):
                leaf = key.rpartition(".")[2]
                content |= {f"conv_{gate}.0.{leaf}": part for gate, part in zip("igof", value.chunk(4), strict=True)}
            else:
                content[key] = value
    torch.save(content, path)
    return path


METHODS = [
    ("ytmt_ucs", ["model.net.width=8", "model.net.hypercolumn=false"]),
    ("ytmt_uat", ["model.net.width=8", "model.net.hypercolumn=false"]),
    ("ytmt_uct_old", ["model.net.width=8", "model.net.hypercolumn=false"]),
    ("ytmt_pas", ["model.net.width=8", "model.net.layers=4"]),
    ("location_aware", ["model.net.width=8"]),
    ("corrn", ["model.net.width=4", "model.net.gradient_decoder=false"]),
    ("errnet", ["model.net.width=8", "model.net.blocks=2", "model.net.hypercolumn=false"]),
]


@pytest.mark.parametrize(("name", "overrides"), METHODS, ids=[name for name, _ in METHODS])
def test_the_authors_layouts_are_recognised_and_converted(tmp_path: Path, name: str, overrides: list[str]) -> None:
    model = small(name, *overrides)
    source = authors_file(model, tmp_path / "authors.pth")
    image = torch.rand(1, 3, 45, 51)
    with torch.no_grad():
        wanted = model(image)["transmission"]
        found = reflectzoo.load_model(source)
        assert found.name == name
        assert torch.equal(found(image)["transmission"], wanted)
        done = convert(source, tmp_path / "ours.safetensors", provenance={"licence": "MIT"})
        assert done.model == name
        assert torch.equal(reflectzoo.load_model(tmp_path / "ours.safetensors")(image)["transmission"], wanted)
        named = reflectzoo.load_model(name, tmp_path / "ours.safetensors")
        assert torch.equal(named(image)["transmission"], wanted)
    assert hashlib.sha256((tmp_path / "ours.safetensors").read_bytes()).hexdigest() == done.sha256
    _, metadata = read_safetensors(tmp_path / "ours.safetensors")
    story = json.loads(metadata["provenance"])
    assert story["licence"] == "MIT"
    assert story["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


def test_half_is_half_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    model = small("location_aware", "model.net.width=8")
    source = authors_file(model, tmp_path / "authors.pth")
    convert(source, tmp_path / "whole.safetensors")
    convert(source, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    found = reflectzoo.load_model(tmp_path / "half.safetensors")
    assert {each.dtype for each in found.parameters()} == {torch.float32}
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        error = (found(image)["transmission"] - model(image)["transmission"]).abs().max()
    assert 0 < error < 0.02

    next(model.net.parameters()).data.fill_(1e6)
    with pytest.raises(UserError, match="leave out --half"):
        convert(authors_file(model, tmp_path / "large.pth"), tmp_path / "large.safetensors", half=True)


def test_weights_of_the_authors_need_the_real_vgg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("ytmt_ucs", "model.net.width=4", "model.vgg=random")
    source = authors_file(model, tmp_path / "authors.pt")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download_module, "reachable", lambda *arguments: False)
    with pytest.raises(DownloadError, match="vgg19"):
        reflectzoo.load_model(source)
    assert reflectzoo.load_model("ytmt_ucs", source, "model.vgg=random").vgg_used is not None
    convert(source, tmp_path / "ours.safetensors")
    with pytest.raises(DownloadError, match="vgg19"):
        reflectzoo.load_model(tmp_path / "ours.safetensors")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_files_that_would_run_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"icnn": {}, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="run code"):
        reflectzoo.load_model(tmp_path / "evil.pt")
    assert "ran" not in capfd.readouterr().out


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    source = authors_file(small("location_aware", "model.net.width=8"), tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not fit model=corrn"):
        reflectzoo.load_model("corrn", source, "model.net.width=4")
    convert(source, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="holds model=location_aware"):
        reflectzoo.load_model("corrn", tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="already exists"):
        convert(source, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="download it again"):
        reflectzoo.load_model(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="no weights file"):
        reflectzoo.load_model("corrn", tmp_path / "none.pth")
    with pytest.raises(UserError, match="no model 'x'"):
        reflectzoo.load_model("x", source)


# -- records -----------------------------------------------------------------------------------------------------------


def test_the_package_s_records_are_sound() -> None:
    found = records()
    assert len({record.name for record in found}) == len(found) > 0
    for record in found:
        assert record.model in reflectzoo.list_models()
        assert record.trained_by
        assert record.trained_on
        assert record.licence
        assert record.available or record.source
        if record.file:
            assert hashlib.sha256((records_module.RECORDS / record.file).read_bytes()).hexdigest() == record.sha256


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "records"
    folder.mkdir()
    monkeypatch.setattr(records_module, "RECORDS", folder)
    return folder


def test_packaged_weights_are_the_default(registry: Path, tmp_path: Path) -> None:
    source = authors_file(small("location_aware", "model.net.width=8"), tmp_path / "a.pth")
    done = convert(source, registry / "a.safetensors")
    record = {
        "name": "test", "model": "location_aware", "trained_by": "us", "trained_on": "noise", "licence": "CC0",
        "file": "a.safetensors", "sha256": done.sha256, "default": True,
    }  # fmt: skip
    (registry / "a.json").write_text(json.dumps(record))
    assert default_model() == "location_aware"
    image = torch.rand(3, 16, 16)
    first, second = (reflectzoo.separate(image, name).transmission for name in (None, "location_aware"))
    assert torch.equal(first, second)
    assert reflectzoo.load_model("location_aware", "test").name == "location_aware"
    (registry / "a.safetensors").write_bytes(b"other")
    with pytest.raises(DownloadError, match="not the expected file"):
        reflectzoo.load_model("location_aware", "test")


def test_weights_that_a_program_cannot_fetch(registry: Path) -> None:
    with pytest.raises(UserError, match=r"example\.org"):
        locate(WeightRecord("a", "corrn", "them", "x", "unknown", source="https://example.org"))


GOOD = {"name": "a", "model": "corrn", "trained_by": "us", "trained_on": "noise", "licence": "CC0"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not a weight record: Expecting value"),
        ("{", "is not a weight record: "),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "one JSON object"),
        ("null", "one JSON object"),
        ('"a"', "one JSON object"),
        (json.dumps({"name": "a", "model": "corrn"}), "it lacks trained_by, trained_on, licence"),
        (json.dumps(GOOD | {"modle": "x"}), "cannot contain 'modle'"),
        (json.dumps(GOOD | {"folder": "/"}), "cannot contain 'folder'"),
        (json.dumps(GOOD | {"name": ""}), "name must be a word"),
        (json.dumps(GOOD | {"model": None}), "model must be a word, got None"),
        (json.dumps(GOOD | {"model": ["corrn"]}), "model must be a word, got "),
        (json.dumps(GOOD | {"size": -1}), "size must be a whole number of at least 0"),
        (json.dumps(GOOD | {"size": 1.5}), "size must be a whole number"),
        (json.dumps(GOOD | {"default": "yes"}), "default must be true or false"),
        (json.dumps(GOOD | {"overrides": "model.net.width=8"}), "overrides must be a list, each a word"),
        (json.dumps(GOOD | {"overrides": [8]}), "overrides must be a list, each a word"),
        (json.dumps(GOOD | {"metrics": [1]}), "metrics must be names"),
        (json.dumps(GOOD | {"metrics": {"real20": {"psnr": "high"}}}), "metrics must be names"),
        ('{"metrics": {"real20": {"psnr": NaN}}, ' + json.dumps(GOOD)[1:], "metrics must be names"),
        (json.dumps(GOOD | {"file": "a.safetensors"}), "no sha256"),
        (json.dumps(GOOD | {"url": "https://x.org/a", "sha256": "ü" * 64}), "no sha256"),
        (json.dumps(GOOD | {"file": "../a.safetensors", "sha256": "0" * 64}), "must be a plain name"),
        (json.dumps(GOOD | {"file": "..", "sha256": "0" * 64}), "must be a plain name"),
        (json.dumps(GOOD | {"file": "a\0b", "sha256": "0" * 64}), "must be a plain name"),
    ],
)
def test_a_malformed_record_is_one_sentence(registry: Path, text: str, told: str) -> None:
    (registry / "a.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(told)) as error:
        records()
    assert "a.json" in str(error.value)
    assert len(str(error.value)) < 400


def test_a_record_that_is_no_text(registry: Path) -> None:
    (registry / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="is not a weight record"):
        records()


# -- downloads ---------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 4096
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT; may break off, may not know ranges."""

    def __init__(self) -> None:
        self.break_after: int | None = None
        self.ranges = True
        self.content = CONTENT
        self.asked: list[str | None] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                owner.asked.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and owner.ranges else 0
                total = len(owner.content)
                if start >= total:
                    self.send_response(416)
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                self.send_header("Content-Length", str(total - start))
                self.end_headers()
                end = total if owner.break_after is None else start + owner.break_after
                self.wfile.write(owner.content[start:end])

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/w-{SHA[:8]}.safetensors"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.thread.join()
    server.http.server_close()


def test_a_download_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    server.break_after = 300_000
    with pytest.raises(DownloadError):
        download(server.url, path, SHA)
    assert not path.exists()
    half = (tmp_path / "a.bin.part").stat().st_size
    assert half > 0
    server.break_after = None
    download(server.url, path, SHA)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={half}-"
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]


def test_a_server_that_knows_no_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    download(server.url, tmp_path / "a.bin", SHA)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("old", [b"x" * 1000, CONTENT, b"x" * (len(CONTENT) + 5)])
def test_what_lies_there_from_before(server: Server, tmp_path: Path, old: bytes) -> None:
    (tmp_path / "a.bin.part").write_bytes(old)
    download(server.url, tmp_path / "a.bin", SHA)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_another_file_than_expected(server: Server, tmp_path: Path) -> None:
    server.content = b"something else"
    with pytest.raises(DownloadError, match="not the expected file"):
        download(server.url, tmp_path / "a.bin", SHA)
    assert not list(tmp_path.iterdir())


def test_addresses_with_a_hash(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = locate(server.url)
    assert path.read_bytes() == CONTENT
    assert locate(server.url) == path
    assert len(server.asked) == 1
    with pytest.raises(UserError, match="hash"):
        locate("http://127.0.0.1:1/model.pth")
