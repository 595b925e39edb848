"""Weights from the network and from files: a download that never hangs, never leaves half a file, and says why not."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from filelock import FileLock
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from reflectzoo.errors import UserError

#: Seconds to find out whether a server answers at all, name look-up included.
REACH_SECONDS = 8.0
#: Seconds that a download may stand still before it is given up.
STALL_SECONDS = 20.0


class DownloadError(UserError):
    """Weights are neither cached nor to be had from the network; the message says which and why."""


def cache_path(url: str) -> Path:
    """Where torch.hub keeps (or would keep) the file of this address; ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def is_cached(url: str) -> bool:
    """Whether the file of this address is on this machine already."""
    return cache_path(url).is_file()


def reachable(url: str, timeout: float = REACH_SECONDS) -> bool:
    """Whether the address answers, known after at most ``timeout`` seconds. Proxies of the environment are used."""
    answers: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError, HTTPException):
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "reflectzoo"})
            with urllib.request.urlopen(request, timeout=timeout):
                answers.append(True)

    # A name look-up knows no timeout, so the question is asked where it can be left behind.
    asking = threading.Thread(target=ask, name="reflectzoo-reachable", daemon=True)
    asking.start()
    asking.join(timeout)
    return bool(answers)


def fetch_state_dict(url: str, timeout: float = REACH_SECONDS, stall: float = STALL_SECONDS) -> dict[str, Tensor]:
    """Read a state dict from torch.hub's cache, downloading it first if it is not there.

    The first eight or more digits of the file's sha256 must stand in its name (``name-<digits>.pth``), as torch.hub
    wants it. Processes that ask at the same time wait for the one that downloads.

    Args:
        url: address of the file.
        timeout: seconds to wait for a first answer.
        stall: seconds after which a download that stands still is given up.

    Returns:
        The state dict on the CPU, read with ``weights_only=True``.

    Raises:
        DownloadError: if it is not cached and cannot be had: no answer, a stalled download, a wrong hash, no space.
        UserError: if the cached file is damaged.
    """
    path = cache_path(url)
    if not path.is_file():
        if not reachable(url, timeout):
            raise DownloadError(
                f"{path.name} is not cached in {path.parent} and {url} does not answer: "
                "connect once, or bring the file there by hand."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():
                    _download(url, path, stall)
        except (OSError, RuntimeError, ValueError, HTTPException) as error:
            raise DownloadError(f"{url} could not be downloaded to {path} ({error}): try again.") from error
    return read_state_dict(path)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a file of named tensors (``.pth``, ``.pt``) on the CPU.

    Raises:
        UserError: if there is no such file, it cannot be read, or it holds anything but named tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no weights file {path}: check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # What torch.load raises depends on where the damage sits: unpickling, zip, end of file, key and type errors.
    except Exception as error:
        raise UserError(
            f"The weights file {path} cannot be read ({type(error).__name__}): it is damaged or no file of "
            "torch.save; delete it and get it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"The weights file {path} holds no plain state dict (names and tensors): give one that does.")
    return state


def _download(url: str, path: Path, stall: float) -> None:
    digits = torch.hub.HASH_REGEX.search(path.name)
    if digits is None:
        raise ValueError(f"{path.name} does not carry the digits of its hash")
    rank_zero_info(f"Downloading {url} to {path}")
    with _socket_timeout(stall):
        # Writes under another name and moves when complete and right.
        torch.hub.download_url_to_file(url, os.fspath(path), digits.group(1), progress=sys.stderr.isatty())


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torch.hub opens its connection without a timeout and takes none; only the process-wide default reaches it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
