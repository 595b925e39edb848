"""Downloads that neither hang nor leave a partial file under the final name, with clear errors."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from filelock import FileLock
from torch import Tensor

from reflectzoo.core.notices import inform
from reflectzoo.errors import UserError
from reflectzoo.weights.read import read_state_dict, sha256_of

#: Timeout in seconds for a server's first answer, DNS lookup included.
REACH_SECONDS = 8.0
#: Seconds without data after which a download is aborted.
STALL_SECONDS = 20.0


class DownloadError(UserError):
    """Weights could not be obtained: neither a valid local file nor a successful download; the message says why."""


def cache_path(url: str) -> Path:
    """The path of a URL's file in torch.hub's cache, whether it exists or not; ``TORCH_HOME`` moves the cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def is_cached(url: str) -> bool:
    """Whether the file of a URL is in torch.hub's cache."""
    return cache_path(url).is_file()


def reachable(url: str, timeout: float = REACH_SECONDS) -> bool:
    """Whether a URL answers within ``timeout`` seconds; proxies set in the environment are used."""
    answers: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError, HTTPException):
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "reflectzoo"})
            with urllib.request.urlopen(request, timeout=timeout):
                answers.append(True)

    # A DNS lookup has no timeout, hence a daemon thread that can be abandoned.
    asking = threading.Thread(target=ask, name="reflectzoo-reachable", daemon=True)
    asking.start()
    asking.join(timeout)
    return bool(answers)


def fetch_state_dict(url: str, timeout: float = REACH_SECONDS, stall: float = STALL_SECONDS) -> dict[str, Tensor]:
    """Read a state dict from torch.hub's cache, downloading it first if it is missing.

    The file name must contain the first eight or more digits of its sha256 (``name-<digits>.pth``), as torch.hub
    requires. Concurrent processes wait for the one that downloads.

    Args:
        url: URL of the file.
        timeout: seconds to wait for a first answer.
        stall: seconds without data after which the download is aborted.

    Returns:
        The state dict on the CPU, read with ``weights_only=True``.

    Raises:
        DownloadError: if it is not cached and the download fails: no answer, a stall, a wrong hash, a full disk.
        UserError: if the cached file is damaged.
    """
    path = cache_path(url)
    if not path.is_file():
        if not reachable(url, timeout):
            raise DownloadError(
                f"{path.name} is not cached in {path.parent} and {url} does not answer: connect once, or put the file "
                "there by hand."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():
                    _download(url, path, stall)
        except (OSError, RuntimeError, ValueError, HTTPException) as error:
            raise DownloadError(f"{url} could not be downloaded to {path} ({error}): try again.") from error
    return read_state_dict(path)


def _download(url: str, path: Path, stall: float) -> None:
    digits = torch.hub.HASH_REGEX.search(path.name)
    if digits is None:
        raise ValueError(f"{path.name} does not contain the digits of its hash")
    inform(f"Downloading {url} to {path}")
    with _socket_timeout(stall):
        # Writes to a temporary file, which is renamed once it is complete and its hash is right.
        torch.hub.download_url_to_file(url, os.fspath(path), digits.group(1), progress=sys.stderr.isatty())


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the process-wide socket timeout temporarily: torch.hub passes none to its connection and accepts none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def is_url(text: str) -> bool:
    """Whether a string is an HTTP(S) URL rather than a path."""
    return urlparse(text).scheme in ("http", "https")


def fetch(url: str, path: Path, sha256: str) -> Path:
    """Return ``path`` after downloading its file if it is missing and checking its hash.

    Args:
        url: URL of the file.
        path: where the file is, or is to be stored.
        sha256: its hash in hex, or the first digits.

    Raises:
        DownloadError: if the download fails or the hash differs.
    """
    if path.is_file():
        check_hash(path, sha256, path.name)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                download(url, path, sha256)
    except OSError as error:
        raise DownloadError(f"{url} could not be downloaded to {path} ({error}): try again.") from error
    return path


def download(url: str, path: Path, sha256: str, stall: float = STALL_SECONDS) -> None:
    """Download a file, resuming an earlier incomplete download.

    Data is collected in ``<path>.part``; a server that supports byte ranges sends only the rest. ``path`` is created
    only if the hash is right.

    Args:
        url: URL of the file.
        path: target file, in an existing folder.
        sha256: its hash in hex, or the first digits.
        stall: seconds without data after which the download is aborted.

    Raises:
        DownloadError: if it fails; data received so far is kept, unless the hash is wrong.
    """
    part = path.with_name(f"{path.name}.part")
    for again in (False, True):
        start = part.stat().st_size if part.is_file() else 0
        request = urllib.request.Request(url, headers={"User-Agent": "reflectzoo"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        inform(f"Downloading {url} to {path}" + (f" from byte {start} on" if start else ""))
        try:
            with urllib.request.urlopen(request, timeout=stall) as answer:
                resumed = answer.status == 206 and _starts_at(answer.headers.get("Content-Range", ""), start)
                if answer.status == 206 and not resumed:
                    raise DownloadError(f"{url} sent a different part of the file than requested: try again.")
                expected = int(answer.headers.get("Content-Length") or -1)
                got = 0
                with part.open("ab" if resumed else "wb") as file:
                    while block := answer.read(2**18):
                        file.write(block)
                        got += len(block)
                if 0 <= expected != got:
                    raise DownloadError(
                        f"{url} broke off after {start + got} bytes: try again, and it resumes from there."
                    )
        except urllib.error.HTTPError as error:
            # 416: there is nothing left to send, so the partial file is complete, or belongs to another file.
            if error.code != 416:
                raise DownloadError(f"{url} answers {error.code} {error.reason}: check the address.") from error
        except (OSError, HTTPException, ValueError) as error:
            raise DownloadError(
                f"{url} could not be downloaded ({error}): check the connection and try again; what has arrived is "
                f"kept in {part}."
            ) from error
        found = sha256_of(part)
        if found.startswith(sha256.lower()):
            part.replace(path)
            return
        part.unlink()
        # The partial file may have been of an older version: download again from the start.
        if again or not start:
            raise DownloadError(f"{url} is not the expected file (sha256 {found[:12]}…, not {sha256[:12]}…).")


def _starts_at(content_range: str, start: int) -> bool:
    found = re.match(r"bytes (\d+)-", content_range)
    return found is not None and int(found.group(1)) == start


def check_hash(path: Path, sha256: str, name: str) -> None:
    """Check that a file exists and has the given hash.

    Args:
        path: the file.
        sha256: its expected hash in hex, or the first digits.
        name: name of the weights, for the message.

    Raises:
        DownloadError: if it does not exist, or its hash differs.
    """
    if not path.is_file():
        raise DownloadError(f"The weights '{name}' should be in {path}, but are not: install the package again.")
    found = sha256_of(path)
    if not found.startswith(sha256.lower()):
        raise DownloadError(f"{path} is not the expected file (sha256 {found[:12]}…): delete it and try again.")
