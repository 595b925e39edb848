"""The page: what it does without a browser, and in one."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.inference.browser import CHROMIUM, Browser

import reflectzoo
from reflectzoo.__main__ import main
from reflectzoo.data.modules.sample import find_in_package
from reflectzoo.errors import UserError
from reflectzoo.inference import demo
from reflectzoo.inference.demo import DemoService, samples
from reflectzoo.inference.separator import Separator


def _photo(path: Path, size: tuple[int, int] = (61, 45)) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "a window"
    Image.fromarray(values).save(path, exif=exif)
    return path


@pytest.fixture
def desk(tmp_path: Path) -> DemoService:
    network = reflectzoo.create_model("ytmt_pcs", "model.net.width=4", "loss=pixel")
    folder = tmp_path / "results"
    folder.mkdir()
    return DemoService({"small": Separator(network)}, folder)


def test_a_run(desk: DemoService, tmp_path: Path) -> None:
    done = desk.run(str(_photo(tmp_path / "a.jpg")), "small", 1.0)
    assert done.before.size == done.after.size == (61, 45)
    assert "61 x 45 pixels, small" in done.told
    for path in (done.transmission, done.reflection):
        assert path.suffix == ".jpg"
        with Image.open(path) as image:
            assert image.size == (61, 45)
            assert image.getexif()[0x010E] == "a window"


def test_strength_zero_is_the_photograph(desk: DemoService, tmp_path: Path) -> None:
    path = _photo(tmp_path / "a.png")
    with Image.open(desk.run(str(path), "small", 0.0).transmission) as after, Image.open(path) as before:
        assert np.array_equal(np.asarray(after), np.asarray(before))


def test_mistakes(desk: DemoService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    monkeypatch.setattr(demo, "MAX_UPLOAD_PIXELS", 5000)
    for photo, method, told in (
        (None, "small", "Choose a photograph"),
        (str(path), "other", "no method 'other'"),
        (str(tmp_path / "b.png"), "small", "not a picture"),
        (str(_photo(tmp_path / "c.png", (100, 100))), "small", "reflectzoo remove"),
    ):
        with pytest.raises(UserError, match=told):
            desk.run(photo, method, 1.0)
    assert not list(desk.folder.iterdir())


def _png_that_claims(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + bytes(64)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.png", b"Dear photograph,"),
        ("empty.jpg", b""),
        ("zeros.tif", bytes(1000)),
        ("bomb.png", _png_that_claims(60_000, 60_000)),
        ("nothing.png", _png_that_claims(0, 5)),
        ("hollow.png", _png_that_claims(50, 40)),
        ("page.html", b"<html><script>alert(1)</script>"),
        ("archive.webp", b"PK\x03\x04" + bytes(60)),
        ("half.jpg", None),
        ("ü\n\u202e.png", b"x"),
        ("no_suffix", b"\xff\xd8\xff\xe0"),
    ],
)
def test_uploads_that_are_no_photographs(desk: DemoService, tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is None:
        content = _photo(path).read_bytes()
        content = content[: len(content) // 3]
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        desk.run(str(path), "small", 1.0)
    assert 10 < len(str(error.value)) < 400
    assert not list(desk.folder.iterdir())


def test_what_is_no_file(desk: DemoService, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "", "gone.png", "gone/a.png", "x" * 300 + ".png"):
        with pytest.raises(UserError):
            desk.run(str(tmp_path / name), "small", 1.0)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan"), float("inf"), True, None, "abc", "", [1], [[0.5]], {}])
def test_strengths_that_are_none(desk: DemoService, tmp_path: Path, strength: Any) -> None:
    with pytest.raises(UserError, match="strength must be a number from 0 to 1"):
        desk.run(str(_photo(tmp_path / "a.png")), "small", strength)


@pytest.mark.parametrize("method", [None, "", "Small", ["small"], {"small": 1}, 3, "ü" * 1000])
def test_methods_that_are_none(desk: DemoService, tmp_path: Path, method: Any) -> None:
    with pytest.raises(UserError, match=r"There is no method .* on this page") as error:
        desk.run(str(_photo(tmp_path / "a.png")), method, 1.0)
    assert len(str(error.value)) < 200


def test_old_results_are_removed(desk: DemoService, tmp_path: Path) -> None:
    first = desk.run(str(_photo(tmp_path / "a.png")), "small", 1.0)
    os.utime(first.transmission.parent, (0, 0))
    second = desk.run(str(tmp_path / "a.png"), "small", 1.0)
    assert list(desk.folder.iterdir()) == [second.transmission.parent]


def test_samples_show_a_reflection(tmp_path: Path) -> None:
    made = samples(tmp_path)
    assert len(made) == 3
    with Image.open(made[0]) as image, Image.open(find_in_package(("skimage", "data", "coffee.png"))) as coffee:
        assert image.size == coffee.size
        added = np.asarray(image, float) - np.asarray(coffee, float)
    assert added.min() >= -1, "a reflection only adds light"
    assert 10 < added.mean() < 120


def test_without_weights(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    assert main(["demo", "--model", "corrn", "--no-browser"]) == 2
    assert "is not trained" in capfd.readouterr().err


def test_gradio_missing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # given back afterwards
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--model", "corrn", "--untrained", "--no-browser"]) == 2
    assert "pip install 'reflectzoo[demo]'" in capfd.readouterr().err


@pytest.fixture(params=[signal.SIGINT])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    place = tmp_path / "temporary"
    place.mkdir()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "reflectzoo", "demo", "--no-browser", "--untrained", "--model", "ytmt_pcs",
            "--override", "model.net.width=4",
        ],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        found = re.match(r"(http://127\.0\.0\.1:\d+/)", process.stdout.readline())
        assert found
        yield found[1]
    finally:
        process.send_signal(request.param)
        assert process.wait(60) == 0
    assert not list(place.glob("reflectzoo-demo-*")), "files were left behind"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_in_a_browser(address: str, tmp_path: Path) -> None:
    pytest.importorskip("tornado", reason="tornado is not installed")
    shots = Path(os.environ.get("REFLECTZOO_SHOTS", tmp_path))
    browser = Browser(tmp_path)
    try:
        browser.size(1280, 900)
        browser.call("Page.navigate", url=address)
        browser.wait_for("!!document.querySelector('#photo input[type=file]')")
        assert "not trained" in browser.value("document.body.innerText")
        browser.screenshot(shots / "desktop-start.png")

        browser.upload("#photo input[type=file]", Path(samples(tmp_path)[0]))
        browser.wait_for("!!document.querySelector('#photo img')")
        browser.click("#start")
        browser.wait_for("document.querySelectorAll('#before_after img').length >= 2")
        browser.wait_for("/600 x 400 pixels/.test(document.querySelector('#told').innerText)")
        browser.screenshot(shots / "desktop-result.png")

        # The line follows the mouse: what is cut off of the upper picture changes.
        pattern = r"/clip-path: ?[^;\"]*|translateX?\([^)]*\)/g"
        state = f"document.querySelector('#before_after').innerHTML.match({pattern}) + ''"
        box = browser.value(
            "JSON.parse(JSON.stringify(document.querySelector('#before_after img').getBoundingClientRect()))"
        )
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        before = browser.value(state)
        browser.drag(middle, (middle[0] + box["width"] / 4, middle[1]))
        browser.wait(lambda: browser.value(state) != before, "the line to move", 10)

        for name in ("transmission", "reflection"):
            browser.click(f"a#{name}, #{name} a, button#{name}, #{name} button")
            browser.wait(lambda name=name: (browser.downloads / f"{name}.png").is_file(), f"the {name}")
            with Image.open(browser.downloads / f"{name}.png") as image:
                assert image.size == (600, 400)

        browser.size(390, 844)
        browser.wait_for("document.documentElement.scrollWidth <= 390")
        browser.screenshot(shots / "phone-result.png")
        strangers = [url for url in browser.asked if not url.startswith((address, "data:", "blob:", "about:"))]
        assert not strangers, strangers
    finally:
        browser.close()


@pytest.mark.parametrize("address", [signal.SIGTERM], indirect=True)
def test_only_this_machine_and_no_large_files(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(
        demo.MAX_FILE + 1024
    )
    request = urllib.request.Request(
        f"{address}gradio_api/upload", body + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 413
