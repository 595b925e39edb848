"""How a checkpoint gets onto the disk, and what is there afterwards whatever happened meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from reflectzoo.core.disk import whole_file
from reflectzoo.weights.read import LAST, PREVIOUS


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their targets and renames them; ``last.ckpt`` leaves its forerunner behind.

    Lightning's own goes by way of ``TMPDIR``: on another file system than the target it then copies over the old file,
    and a process that is killed while it does so leaves neither the old nor the new one. It also holds the whole file
    in memory.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one checkpoint.

        Raises:
            OSError: naming ``path``; what was there before still is.
        """
        path = Path(path)
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        with whole_file(path, keep) as file:
            sink = _Sink(file)
            try:
                torch.save(checkpoint, cast(IO[bytes], sink))
            except RuntimeError:
                # PyTorch says that a write failed; the system had said why.
                if sink.error is not None:
                    raise sink.error from None
                raise


class _Sink:
    """A file for ``torch.save`` that remembers why a write failed."""

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
