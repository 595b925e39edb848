"""Access control of the web page: which requests it accepts, and how large."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HERE = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """ASGI middleware that protects the page's server.

    Refuses host names other than this machine's (DNS rebinding), requests from pages of other sites (CSRF) and
    websockets, and limits the size of each request and of all uploads together.

    Args:
        app: the server.
        folder: where uploads are stored.
        most: limit of all uploads together, in bytes.
        largest: limit of one request, in bytes.
        kept: age in seconds from which an upload may be deleted to make room for a new one.
    """

    def __init__(self, app: App, folder: Path, most: int, largest: int, kept: float) -> None:
        self.app = app
        self.folder, self.most, self.largest, self.kept = folder, most, largest, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request, or pass it on to the server."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refuse(scope, headers)
        if refused is None:
            await self.app(scope, receive, send)
            return
        status, sentence = refused
        body = json.dumps({"error": sentence, "detail": sentence}).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def _refuse(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        port = (scope.get("server") or ("", 0))[1]
        own = {f"{host}:{port}" for host in _HERE} | (set(_HERE) if port == 80 else set())
        host = headers.get("host", "")
        if host.lower() not in own:
            return 403, f"This page is served on this machine only, not as {host or 'a host without a name'}."
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{each}" for each in own}:
            return 403, f"This page accepts no requests from other pages, such as {origin}."
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "This page accepts no requests from other pages."
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            return 411, "The page accepts only uploads that state their size."
        if int(length) > self.largest:
            return 413, f"The page accepts photographs of up to {self.largest >> 20} MiB."
        if scope["path"].rstrip("/").endswith("/upload") and not self._has_room(int(length)):
            return 507, (f"The page already holds {self.most >> 20} MiB of photographs: wait a little, or restart it.")
        return None

    def _has_room(self, more: int) -> bool:
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in _files(self.folder)]
        held = sum(size for _, size, _ in files)
        for changed, size, path in sorted(files):
            if held + more <= self.most or time.time() - changed < self.kept:
                break
            path.unlink(missing_ok=True)
            held -= size
        return held + more <= self.most


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
