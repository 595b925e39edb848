"""Who may talk to the page."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import reflectzoo
from reflectzoo.errors import UserError
from reflectzoo.inference.demo import DemoService
from reflectzoo.inference.guard import Guard
from reflectzoo.inference.separator import Separator


async def served(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def ask(folder: Path, method: str = "GET", path: str = "/", most: int = 100, **headers: str) -> tuple[int, str]:
    """Status and sentence."""
    guard = Guard(served, folder, most=most, largest=80, kept=1000)
    given = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "method": method, "path": path, "server": ("127.0.0.1", 7860),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, lambda: None, send))  # type: ignore[arg-type, return-value]
    return sent[0]["status"], json.loads(sent[1]["body"]).get("error", "")


UPLOAD = "/gradio_api/upload"


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST:7860", "[::1]:7860"])
def test_this_machine_is_served(host: str, tmp_path: Path) -> None:
    assert ask(tmp_path, host=host)[0] == 200
    assert ask(tmp_path, "POST", UPLOAD, host=host, origin=f"http://{host}", content_length="10")[0] == 200


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1:80", "127.0.0.1", "", "127.0.0.1:7860.evil.example"])
def test_a_foreign_name_is_not(host: str, tmp_path: Path) -> None:
    status, sentence = ask(tmp_path, host=host)
    assert status == 403
    assert "this machine only" in sentence


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:7860", "http://127.0.0.1:80"])
def test_a_foreign_page_is_not(origin: str, tmp_path: Path) -> None:
    for method in ("GET", "POST"):
        assert ask(tmp_path, method, UPLOAD, origin=origin, content_length="1") == (
            403,
            f"This page accepts no requests from other pages, such as {origin}.",
        )
    assert ask(tmp_path, "POST", UPLOAD, sec_fetch_site="cross-site", content_length="1")[0] == 403


def test_what_is_sent_has_a_size_and_a_bound(tmp_path: Path) -> None:
    assert ask(tmp_path, "POST", UPLOAD)[0] == 411
    assert ask(tmp_path, "POST", UPLOAD, content_length="-1")[0] == 411
    assert ask(tmp_path, "POST", UPLOAD, content_length="81")[0] == 413
    (tmp_path / "new.png").write_bytes(bytes(60))
    assert ask(tmp_path, "POST", UPLOAD, content_length="40")[0] == 200
    status, sentence = ask(tmp_path, "POST", UPLOAD, content_length="41")
    assert status == 507
    assert "already" in sentence
    assert ask(tmp_path, "POST", "/gradio_api/queue/join", content_length="41")[0] == 200
    # What nobody has looked at for long gives way.
    os.utime(tmp_path / "new.png", (0, 0))
    assert ask(tmp_path, "POST", UPLOAD, content_length="41")[0] == 200
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_what_is_worked_on(tmp_path: Path) -> None:
    network = reflectzoo.create_model("ytmt_pcs", "model.net.width=4", "loss=pixel")
    desk = DemoService({"small": Separator(network)}, tmp_path)
    begun, told = threading.Event(), []

    def slowly(picture: Any, strength: float, progress: Any) -> Any:
        for tile in range(1000):
            begun.set()
            time.sleep(0.01)
            progress(tile, 1000)
        return torch.zeros(1)

    desk.separators["small"].picture = slowly  # type: ignore[method-assign]
    from reflectzoo.data.modules.sample import find_in_package

    def work() -> None:
        try:
            desk.run(str(find_in_package(("skimage", "data", "chelsea.png"))), "small", 1.0)
        except UserError as error:
            told.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    assert desk.close(60)
    thread.join()
    assert told == ["The page is being closed."]
