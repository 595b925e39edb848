"""The frozen VGG-19, and where its weights come from; no test leaves this machine."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets import vgg as vgg_module
from reflectzoo.nets.shared_vgg import UsesVGG, attach_vgg
from reflectzoo.nets.vgg import RANDOM_FINGERPRINT, VGG19, load_vgg19, random_state
from reflectzoo.weights import download as weights_module
from reflectzoo.weights.download import DownloadError, cache_path, fetch_state_dict, is_cached, reachable

# The container of torchvision, written down a second time: channels of convolutions, M for a pool (the last one is
# left out: no layer lies behind it).
CONFIGURATION_E = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4]


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    return load_vgg19("random")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch.hub cache of its own, and nothing of the outside world: the official address is a closed port."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(vgg_module, "VGG19_URL", "http://127.0.0.1:9/vgg19-dcbb9e9d.pth")
    return tmp_path / "torch" / "hub" / "checkpoints"


def every_map(vgg: VGG19, image: Tensor) -> dict[str, Tensor]:
    state = vgg.state_dict()
    found: dict[str, Tensor] = {}
    position, block, index, x = 0, 1, 1, image
    for entry in CONFIGURATION_E:
        if entry == "M":
            x, block, index, position = nn.functional.max_pool2d(x, 2, 2), block + 1, 1, position + 1
            continue
        prefix = f"features.{position}"
        assert state[f"{prefix}.weight"].shape[0] == entry
        x = nn.functional.conv2d(x, state[f"{prefix}.weight"], state[f"{prefix}.bias"], padding=1)
        found[f"conv{block}_{index}"] = x
        x = x.clamp(min=0)
        found[f"relu{block}_{index}"] = x
        position, index = position + 2, index + 1
    return found


# The network


def test_every_layer(vgg: VGG19) -> None:
    image = torch.rand(1, 3, 21, 34)
    wanted = every_map(vgg, image)
    assert len(wanted) == 32
    found = vgg(image, list(wanted))
    for name, value in zip(wanted, found, strict=True):
        assert torch.allclose(value, wanted[name], atol=1e-5), name
    # A map before its rectifier was not rectified behind the caller's back.
    assert all((value < 0).any() for name, value in zip(wanted, found, strict=True) if name.startswith("conv"))


def test_order_and_repetition_are_the_callers(vgg: VGG19) -> None:
    image = torch.rand(1, 3, 8, 8)
    deep, shallow, again = vgg(image, ["relu2_1", "conv1_1", "relu2_1"])
    assert deep.shape == again.shape == (1, 128, 4, 4)
    assert shallow.shape == (1, 64, 8, 8)
    assert vgg(image, []) == []


def test_stops_after_the_deepest_layer(vgg: VGG19) -> None:
    calls = []
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in vgg.features]
    # Two sides of 1: any pool would raise.
    vgg(torch.rand(1, 3, 1, 1), ["relu1_1"])
    for hook in hooks:
        hook.remove()
    assert len(calls) == 1


def test_unknown_layer(vgg: VGG19) -> None:
    with pytest.raises(ValueError, match="'relu6_1'"):
        vgg(torch.rand(1, 3, 8, 8), ["relu1_1", "relu6_1"])


def test_gradient_reaches_the_image_only(vgg: VGG19) -> None:
    image = torch.rand(1, 3, 16, 16).requires_grad_()
    before = image.detach().clone()
    sum(x.sum() for x in vgg(image, ["conv1_1", "relu3_2"])).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert torch.equal(image, before)
    assert not any(p.requires_grad for p in vgg.parameters())


def test_memory_format_is_kept(vgg: VGG19) -> None:
    image = torch.rand(1, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in vgg(image, ["relu1_1", "relu2_1"]))


def test_copies_share_it_and_state_dicts_leave_it_out(vgg: VGG19) -> None:
    class Owner(UsesVGG):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(1, 1)

    owner = Owner()
    attach_vgg(owner, vgg)
    assert copy.deepcopy(owner).vgg is vgg
    assert list(owner.state_dict()) == ["own.weight", "own.bias"]


# Random weights


def test_random_is_the_same_everywhere(vgg: VGG19) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = load_vgg19("random")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.source == "random"
    # Written down once, so that another version of numpy or torch would be noticed.
    assert again.fingerprint == vgg.fingerprint == RANDOM_FINGERPRINT == "17957763a7fc"
    assert float(random_state()["features.34.weight"].double().sum()) == pytest.approx(62.107443, abs=1e-6)


def test_random_weights_of_another_c_library_are_the_same() -> None:
    """glibc 2.41 rounds log1pf otherwise than 2.36, which moves a few values by their last bit."""
    state = random_state()
    last = state["features.34.weight"]
    last.view(-1)[::1000] = torch.nextafter(last.view(-1)[::1000], torch.tensor(9.0))
    assert VGG19(state).fingerprint == RANDOM_FINGERPRINT
    last[0, 0, 0, 0] *= 1.001
    assert VGG19(state).fingerprint != RANDOM_FINGERPRINT


def test_random_is_he_normal() -> None:
    state = random_state()
    assert len(state) == 32
    for key, value in state.items():
        if key.endswith("bias"):
            assert not value.any()
        else:
            assert abs(float(value.std()) / (2 / value[0].numel()) ** 0.5 - 1) < 0.05, key


def test_fingerprint_follows_the_weights() -> None:
    state = random_state()
    state["features.0.bias"] = torch.ones(64)
    other = VGG19(state, "elsewhere")
    assert other.source == "elsewhere"
    assert other.fingerprint != RANDOM_FINGERPRINT
    other.load_state_dict(random_state())
    assert other.fingerprint == RANDOM_FINGERPRINT
    assert other.source == "state dict"
    assert not any(p.requires_grad for p in other.parameters())


# Files


@pytest.mark.parametrize("layout", ["whole", "features", "bare"])
def test_files(tmp_path: Path, layout: str) -> None:
    state = random_state()
    if layout == "whole":
        state["classifier.6.bias"] = torch.zeros(1000)
    if layout == "bare":
        state = {key.removeprefix("features."): value for key, value in state.items()}
    path = tmp_path / "some.pth"
    torch.save(state, path)
    vgg = load_vgg19(str(path))
    assert vgg.source == str(path)
    assert vgg.fingerprint == RANDOM_FINGERPRINT


def _batch_norm() -> object:
    return {**random_state(), "features.1.running_mean": torch.zeros(64)}


def _other_sizes() -> object:
    return {**random_state(), "features.0.weight": torch.zeros(64, 1, 3, 3)}


def _not_all() -> object:
    return {key: value for key, value in random_state().items() if key != "features.34.bias"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (_batch_norm, "also has features.1.running_mean"),
        (_other_sizes, r"features.0.weight is \(64, 1, 3, 3\)"),
        (_not_all, "features.34.bias is missing"),
        (lambda: {"epoch": 3}, "no plain state dict"),
        (lambda: [1, 2], "no plain state dict"),
        (lambda: {}, "features.0.weight is missing"),
    ],
)
def test_files_of_something_else(tmp_path: Path, content: object, sentence: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(content(), path)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence) as told:
        load_vgg19(str(path))
    assert "other.pth" in str(told.value)
    assert "\n" not in str(told.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights file .*nowhere\.pth"):
        load_vgg19(str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x80\x04N."], ids=["empty", "html", "pickle"])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.pth"):
        load_vgg19(str(path))


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    torch.save(random_state(), path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"half\.pth cannot be read"):
        load_vgg19(str(path))


# The network outside


class Quiet(SimpleHTTPRequestHandler):
    gets = 0

    def do_GET(self) -> None:
        type(self).gets += 1
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    Quiet.gets = 0
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", folder
    running.shutdown()
    running.server_close()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/vgg19-dcbb9e9d.pth"


def serve(folder: Path, state: dict[str, Tensor], right_hash: bool = True) -> str:
    path = folder / "weights.pth"
    torch.save(state, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if right_hash else "00000000"
    return path.rename(folder / f"small-{digits}.pth").name


def test_download_is_cached(server: tuple[str, Path], empty_cache: Path) -> None:
    address, folder = server
    name = serve(folder, {"a": torch.arange(3.0)})
    url = f"{address}/{name}"
    assert reachable(url)
    assert not is_cached(url)
    assert torch.equal(fetch_state_dict(url)["a"], torch.arange(3.0))
    assert is_cached(url)
    assert cache_path(url) == empty_cache / name
    (folder / name).unlink()
    assert not reachable(url)
    assert torch.equal(fetch_state_dict(url)["a"], torch.arange(3.0))
    assert Quiet.gets == 1


def test_file_addresses(tmp_path: Path) -> None:
    name = serve(tmp_path, {"a": torch.ones(1)})
    assert fetch_state_dict((tmp_path / name).as_uri())["a"] == 1


def test_wrong_hash_leaves_nothing(server: tuple[str, Path], empty_cache: Path) -> None:
    address, folder = server
    url = f"{address}/{serve(folder, {'a': torch.ones(1)}, right_hash=False)}"
    with pytest.raises(DownloadError, match="invalid hash"):
        fetch_state_dict(url)
    assert not list(empty_cache.glob("small*"))
    assert socket.getdefaulttimeout() is None


def test_silence_is_given_up(black_hole: str) -> None:
    start = time.monotonic()
    assert not reachable(black_hole, timeout=0.5)
    with pytest.raises(DownloadError, match="does not answer"):
        fetch_state_dict(black_hole, timeout=0.5)
    assert time.monotonic() - start < 3


def test_blocked_name_lookup_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def lookup(*_: object, **__: object) -> None:
        released.wait(30)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    start = time.monotonic()
    assert not reachable("http://nowhere.invalid/x-00000000.pth", timeout=0.5)
    assert time.monotonic() - start < 3
    released.set()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x-00000000.pth", "nonsense", "http://[/x"])
def test_no_answer(address: str) -> None:
    assert not reachable(address, timeout=2)


def test_stalled_download_is_given_up(empty_cache: Path) -> None:
    class Stalling(BaseHTTPRequestHandler):
        released = threading.Event()

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(b"half")
            self.released.wait(30)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(DownloadError, match="timed out"):
        fetch_state_dict(f"http://127.0.0.1:{running.server_port}/some-00000000.pth", stall=0.5)
    assert time.monotonic() - start < 5
    assert not list(empty_cache.glob("some*"))
    Stalling.released.set()
    running.shutdown()
    running.server_close()


def test_cache_that_cannot_be_written(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    name = serve(folder, {"a": torch.ones(1)})
    # A file where the folder should be: not even root can make it.
    (tmp_path / "torch").write_text("")
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch_state_dict(f"{address}/{name}")


def _fetch(url: str, home: str, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    torch.hub.set_dir(f"{home}/hub")
    answers.put(float(fetch_state_dict(url)["a"].sum()))


def test_processes_at_once_download_once(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    url = f"{address}/{serve(folder, {'a': torch.ones(1 << 20)})}"
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_fetch, args=(url, str(tmp_path / "torch"), answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [float(1 << 20)] * 3
    for process in processes:
        process.join(10)
    assert Quiet.gets == 1


# "imagenet" and "auto"


def test_auto_without_network_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, black_hole: str) -> None:
    monkeypatch.setattr(vgg_module, "VGG19_URL", black_hole)
    monkeypatch.setattr(weights_module.reachable, "__defaults__", (0.5,))
    monkeypatch.setattr(weights_module.fetch_state_dict, "__defaults__", (0.5, 0.5))
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        vgg = load_vgg19("auto")
    assert time.monotonic() - start < 5
    assert vgg.source == "random"
    assert len(said) == 1
    line = str(said[0].message)
    assert "\n" not in line
    for word in ("RANDOM", "not be those of the paper", "vgg19-dcbb9e9d.pth", "connect once"):
        assert word in line


def test_imagenet_without_network_is_an_error() -> None:
    with pytest.raises(UserError, match="does not answer"):
        load_vgg19("imagenet")


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_cached_weights_need_no_network(empty_cache: Path, weights: str) -> None:
    empty_cache.mkdir(parents=True)
    torch.save({**random_state(), "classifier.0.bias": torch.zeros(4096)}, empty_cache / "vgg19-dcbb9e9d.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vgg = load_vgg19(weights)
    assert vgg.source == "imagenet"
    assert vgg.fingerprint == RANDOM_FINGERPRINT


def test_damaged_cache_is_told_not_hidden(empty_cache: Path) -> None:
    empty_cache.mkdir(parents=True)
    (empty_cache / "vgg19-dcbb9e9d.pth").write_bytes(b"half a file")
    with pytest.raises(UserError, match="delete it") as told:
        load_vgg19("auto")
    assert str(empty_cache) in str(told.value)
