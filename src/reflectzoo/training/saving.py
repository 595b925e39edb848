"""Atomic writing of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from reflectzoo.core.disk import atomic_file
from reflectzoo.weights.read import LAST, PREVIOUS


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; a new ``last.ckpt`` keeps its predecessor as a second file.

    Lightning writes to ``TMPDIR`` first. If that is another file system than the target's, it then copies over the old
    file, and a process killed during the copy leaves neither the old nor the new checkpoint. It also holds the whole
    file in memory.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one checkpoint.

        Raises:
            OSError: with ``path`` as its file name; an earlier file there is left intact.
        """
        path = Path(path)
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        with atomic_file(path, keep) as file:
            sink = _Sink(file)
            try:
                torch.save(checkpoint, cast(IO[bytes], sink))
            except RuntimeError:
                # PyTorch reports only that a write failed; the system's error has the reason.
                if sink.error is not None:
                    raise sink.error from None
                raise


class _Sink:
    """File wrapper for ``torch.save`` that keeps the ``OSError`` of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
