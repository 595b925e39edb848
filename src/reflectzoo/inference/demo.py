"""A web page for separating photographs, served to this machine only; no data leaves it."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from reflectzoo.drawing.panels import to_uint8
from reflectzoo.errors import DISK_REASONS, UserError
from reflectzoo.inference.guard import Guard
from reflectzoo.inference.separator import Separator
from reflectzoo.photo.model import Picture
from reflectzoo.photo.read import picture_size, read_picture
from reflectzoo.photo.write import suffix_for
from reflectzoo.weights.stored import shortened

#: Limits of one upload, in bytes and in pixels.
MAX_FILE = 64 * 2**20
MAX_UPLOAD_PIXELS = 24_000_000
#: Limits of all uploads and of all results together, in bytes.
MAX_UPLOADS = 2 * 2**30
MAX_RESULTS = 2 * 2**30
#: Longest side in pixels of the pictures shown on the page; downloads have full size.
_SHOWN = 1600
#: Lifetime of results in seconds while the page is running, and the interval of Gradio's clean-up.
_KEPT = 1800
_LOOK = 300
#: Lifetime in seconds of Gradio's files (uploads, downloads, samples); all are removed when the page ends.
_SESSION = 86_400
#: Pairs of scene and reflection for the sample photographs.
_SAMPLES = (("coffee.png", "chelsea.png"), ("chelsea.png", "rocket.jpg"), ("motorcycle_left.png", "coffee.png"))

_CSS = """
.gradio-container {max-width: 1100px !important; margin: 0 auto !important}
#title h1 {margin-bottom: 0}
#before_after img {image-rendering: auto}
"""


class DemoResult(NamedTuple):
    """The result of one run, as shown on the page.

    Attributes:
        before: the photograph, reduced.
        after: its transmission, reduced.
        transmission: file of the transmission in full size.
        reflection: file of the reflection in full size.
        told: a line with size, method and time.
    """

    before: Image.Image
    after: Image.Image
    transmission: Path
    reflection: Path
    told: str


class DemoService:
    """The work behind the page, independent of Gradio.

    Args:
        separators: separators by the name shown on the page; the first is preselected.
        folder: where results are written; the caller removes it.

    Raises:
        ValueError: if there are no separators.
    """

    def __init__(self, separators: Mapping[str, Separator], folder: Path) -> None:
        if not separators:
            raise ValueError("a page without any method")
        self.separators = dict(separators)
        self.folder = folder
        self._work = threading.Lock()
        self._closing = False

    def run(self, photo: str | None, method: str, strength: float) -> DemoResult:
        """Separate a photograph, one at a time.

        Args:
            photo: its file; None if the user chose none.
            method: a key of ``separators``.
            strength: see :meth:`reflectzoo.inference.separator.Separator.picture`.

        Raises:
            UserError: if there is no photograph, it cannot be read or is too large, there is no such method, the
                results cannot be written, or the page is being closed.
        """
        with self._work:
            try:
                return self._run(photo, method, strength)
            except OSError as error:
                why = DISK_REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
                raise UserError(f"The page cannot read the photograph or write its results: {why}.") from error

    def close(self, seconds: float) -> bool:
        """Stop a run in progress at its next tile, and refuse further ones.

        Args:
            seconds: how long to wait for the run to stop.

        Returns:
            Whether no run is in progress any more.
        """
        self._closing = True
        if not self._work.acquire(timeout=seconds):
            return False
        self._work.release()
        return True

    def _go_on(self, *_: int) -> None:
        if self._closing:
            raise UserError("The page is being closed.")

    def _run(self, photo: str | None, method: str, strength: float) -> DemoResult:
        self._go_on()
        self.tidy()
        if photo is None:
            raise UserError("Choose a photograph first: drop one onto the page, take one, or click on a sample.")
        if not isinstance(method, str) or method not in self.separators:
            raise UserError(f"There is no method {shortened(method)} on this page: reload it.")
        path = Path(photo)
        picture = _read(path)
        began = time.monotonic()
        layers = self.separators[method].picture(picture, strength, self._go_on)
        seconds = time.monotonic() - began
        # Of an uploaded file's name, which is untrusted, only the suffix becomes part of a path.
        place = self.folder / secrets.token_hex(8)
        suffix = suffix_for(path, picture)
        saved = [
            layer.save(place / f"{name}{suffix}")
            for name, layer in zip(("transmission", "reflection"), layers, strict=True)
        ]
        told = f"{picture.width} x {picture.height} pixels, {method}, {seconds:.1f} s"
        return DemoResult(_reduced(picture), _reduced(layers.transmission), saved[0], saved[1], told)

    def tidy(self, older: float = _KEPT) -> None:
        """Remove results older than ``older`` seconds, and the oldest beyond :data:`MAX_RESULTS` bytes in total."""
        held = 0
        for each in sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
            held += sum(path.stat().st_size for path in each.rglob("*")) if each.is_dir() else 0
            if time.time() - each.stat().st_mtime >= older or held > MAX_RESULTS:
                shutil.rmtree(each, ignore_errors=True)


def _read(path: Path) -> Picture:
    width, height = picture_size(path)
    if width * height > MAX_UPLOAD_PIXELS:
        raise UserError(
            f"This photograph has {width * height / 1e6:.0f} million pixels, more than the page's limit of "
            f"{MAX_UPLOAD_PIXELS / 1e6:.0f} million: use `reflectzoo remove` instead."
        )
    return read_picture(path)


def _reduced(picture: Picture) -> Image.Image:
    image = picture.to_pil().convert("RGB")
    image.thumbnail((_SHOWN, _SHOWN))
    return image


def samples(folder: Path) -> list[str]:
    """Synthesise sample photographs from the pictures of scikit-image; skips those that are not installed.

    Args:
        folder: where they are written.

    Returns:
        Their paths.
    """
    from reflectzoo.data.datasets.base import to_tensor
    from reflectzoo.data.modules.sample import find_in_package
    from reflectzoo.data.synthesis import CEILNetSynthesis

    made = []
    for behind, mirrored in _SAMPLES:
        try:
            paths = [find_in_package(("skimage", "data", name)) for name in (behind, mirrored)]
        except UserError:
            continue
        scene = Image.open(paths[0]).convert("RGB")
        glass = ImageOps.fit(Image.open(paths[1]).convert("RGB"), scene.size)
        there, here = (to_tensor(np.array(each))[None].float() / 255 for each in (scene, glass))
        draws = {"sigma": torch.tensor([4.0]), "gamma": torch.tensor([1.3])}
        blended, _, _ = CEILNetSynthesis().blend(there, here, draws)
        path = folder / f"{Path(behind).stem}_through_glass.png"
        Image.fromarray(to_uint8(blended[0])).save(path)
        made.append(str(path))
    return made


def import_gradio(folder: Path) -> Any:
    """Import Gradio, with telemetry off and its files in ``folder``.

    Raises:
        UserError: if it is not installed.
    """
    # Gradio reads these variables on import.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        import gradio
    except ImportError as error:
        raise UserError("The web page needs the package gradio: pip install 'reflectzoo[demo]'.") from error
    return gradio


def _file_of(payload: Any) -> str | None:
    """The path of an uploaded file, not checked: reading it reports any error."""
    return None if payload is None or not payload.path else str(payload.path)


def page(desk: DemoService, gradio: Any, learnt: bool = True) -> Any:
    """Build the page, without serving it.

    Args:
        desk: does the work.
        gradio: see :func:`import_gradio`.
        learnt: whether the networks are trained; otherwise the page shows a warning.
    """

    def run(photo: str | None, method: str, strength: float) -> tuple[Any, ...]:
        try:
            done = desk.run(photo, method, strength)
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        files = (
            gradio.DownloadButton(value=str(each), interactive=True) for each in (done.transmission, done.reflection)
        )
        return (done.before, done.after), *files, done.told

    def clear() -> tuple[Any, ...]:
        # The results still belong to the previous photograph.
        return None, *(gradio.DownloadButton(value=None, interactive=False) for _ in range(2)), ""

    names = list(desk.separators)
    with gradio.Blocks(title="reflectzoo", analytics_enabled=False, delete_cache=(_LOOK, _SESSION)) as blocks:
        gradio.Markdown(
            "# reflectzoo\nRemoves the reflection from a photograph taken through glass. Nothing leaves this machine.",
            elem_id="title",
        )
        if not learnt:
            gradio.Markdown("**This network is not trained: its output is noise.** Start the page with weights.")
        with gradio.Row():
            with gradio.Column(min_width=300):
                photo = gradio.Image(
                    label="Photograph", type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"],
                    height=320, buttons=["fullscreen"], elem_id="photo",
                )  # fmt: skip
                # Gradio's own preprocessing opens the file, and gives no message for one that is not a picture.
                photo.preprocess = _file_of
                found = samples(desk.folder)
                if found:
                    gradio.Examples(found, photo, label="Samples", cache_examples=False)
                method = gradio.Dropdown(names, value=names[0], label="Method", elem_id="method")
                strength = gradio.Slider(0, 1, value=1, step=0.05, label="Strength", elem_id="strength")
                start = gradio.Button("Remove the reflection", variant="primary", elem_id="start")
            with gradio.Column(min_width=300):
                both = gradio.ImageSlider(
                    label="Before and after: drag the line", type="pil", interactive=False, buttons=["fullscreen"],
                    elem_id="before_after",
                )  # fmt: skip
                told = gradio.Markdown(elem_id="told")
                with gradio.Row():
                    downloads = [
                        gradio.DownloadButton(f"Download {name}", interactive=False, min_width=140, elem_id=name)
                        for name in ("transmission", "reflection")
                    ]
        results = [both, *downloads, told]
        start.click(run, [photo, method, strength], results, concurrency_limit=1, api_name="remove")
        photo.change(clear, None, results, api_visibility="private", show_progress="hidden")
    return blocks


def serve(desk: DemoService, gradio: Any, *, port: int | None, browser: bool, learnt: bool = True) -> Any:
    """Serve the page to this machine only.

    Args:
        desk: does the work.
        gradio: see :func:`import_gradio`.
        port: None takes the first free port from 7860 to 7959.
        browser: open the page in a browser.
        learnt: see :func:`page`.

    Returns:
        The running page, which the caller must close.

    Raises:
        UserError: if the port is in use.
    """
    from starlette.middleware import Middleware

    blocks = page(desk, gradio, learnt)
    guard = Middleware(
        Guard, folder=Path(os.environ["GRADIO_TEMP_DIR"]), most=MAX_UPLOADS, largest=MAX_FILE + 2**16, kept=_KEPT
    )
    # System fonts only: the default theme downloads its fonts.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        blocks.queue(max_size=8).launch(
            server_name="127.0.0.1", server_port=port, share=False, inbrowser=browser, quiet=True, ssr_mode=False,
            prevent_thread_lock=True, max_file_size=MAX_FILE, footer_links=[], enable_monitoring=False, theme=theme,
            css=_CSS, app_kwargs={"middleware": [guard]},
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"The port {port or '7860 to 7959'} is in use: choose another with --port.") from error
    return blocks
