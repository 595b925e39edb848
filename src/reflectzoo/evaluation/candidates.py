"""What is evaluated: networks, folders of pictures made elsewhere, and the untouched input."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import reflectzoo
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.inference.models import fill_foreign, load_file
from reflectzoo.training.module import ReflectionModule
from reflectzoo.weights.read import read_checkpoint

INPUT = "input"
_NAME = re.compile(r"[^\w.+@=-]+")


class Entry:
    """One row of the table.

    Args:
        name: unique among the entries; also a folder's name.
    """

    kind = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """The layers of one sample of a set, (1, 3, H, W); None if the entry has none."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its layers are")

    def has(self, dataset: str, image: str) -> bool:
        """Whether the entry has layers for a picture of a set."""
        return True

    def identity(self) -> dict[str, Any]:
        """What the scores of this entry follow from."""
        return {"kind": self.kind}

    def record(self) -> dict[str, Any]:
        """What a result file says about it."""
        return {"name": self.name, "kind": self.kind}


class InputEntry(Entry):
    """The mixture taken for a transmission: what doing nothing scores."""

    kind = "input"

    def __init__(self) -> None:
        super().__init__(INPUT)

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """The mixture."""
        return {"transmission": batch["mixture"]}


class NetworkEntry(Entry):
    """A trained method.

    Args:
        name: see :class:`Entry`.
        module: in evaluation mode.
        path: of its weights.
        kind: ``checkpoint`` of this zoo or ``weights`` from elsewhere.
        sha256: of the file.
        provenance: what the file says about how it was made.
    """

    def __init__(
        self, name: str, module: ReflectionModule, path: Path, kind: str, sha256: str, provenance: dict[str, Any]
    ) -> None:
        super().__init__(name)
        self.module = module
        self.path = path
        self.kind = kind
        self.sha256 = sha256
        self.provenance = provenance

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """One forward pass."""
        return self.module.look_at(batch)

    def identity(self) -> dict[str, Any]:
        """The hash of the weights, the method, and the VGG it looks through."""
        return {
            "kind": self.kind,
            "model": self.module.name,
            "sha256": self.sha256,
            "vgg": (self.module.vgg_used or {}).get("fingerprint"),
            "configuration": self.provenance.get("configuration"),
        }

    def record(self) -> dict[str, Any]:
        """With path, hash, number of parameters and provenance."""
        return {
            **super().record(),
            "model": self.module.name,
            "path": str(self.path),
            "sha256": self.sha256,
            "parameters": sum(parameter.numel() for parameter in self.module.net.parameters()),
            "vgg": self.module.vgg_used,
            "provenance": self.provenance,
        }


def from_checkpoint(path: str | Path, model: str | None = None, name: str | None = None) -> NetworkEntry:
    """A checkpoint that ``reflectzoo.train`` wrote.

    Args:
        path: the file.
        model: what it must be; None for whatever it says.
        name: of the entry; None for the model's.

    Raises:
        UserError: if the file is missing, damaged, of another model, or not of this zoo.
    """
    file = Path(path).expanduser()
    checkpoint = read_checkpoint(file, "ckpt")
    record = checkpoint.get("reflectzoo") or {}
    if not record.get("config") or "state_dict" not in checkpoint:
        raise UserError(
            f"ckpt={path} was not written by reflectzoo.train, so it does not say which model it holds: give it as "
            "model=<name> weights=FILE."
        )
    if model is not None and record.get("model") != model:
        raise UserError(
            f"ckpt={path} was made by model={record.get('model')}, not by model={model}: leave model out, the "
            "checkpoint knows."
        )
    module = reflectzoo.load_model(file)
    provenance: dict[str, Any] = {
        "epoch": checkpoint.get("epoch"),
        "global_step": checkpoint.get("global_step"),
        "lightning": checkpoint.get("pytorch-lightning_version"),
        "configuration": record["config"],
        "run": _run_of(file),
    }
    return NetworkEntry(name or module.name, module, file, "checkpoint", _hash(file), provenance)


def from_weights(path: str | Path, module: ReflectionModule, name: str | None = None) -> NetworkEntry:
    """Weights of a method from a file of its authors, or any other that its ``convert.remap`` reads.

    Args:
        path: the file.
        module: the method, as :func:`reflectzoo.create_model` makes it; its network gets the weights.
        name: of the entry; None for the model's.

    Raises:
        UserError: if the file is missing or damaged, or the weights do not fit the model.
    """
    file = Path(path).expanduser()
    content = read_checkpoint(file, "weights")
    fill_foreign(module, content, f"weights={path}")
    epoch = content.get("epoch")
    provenance = {"configuration": module.config, "epoch": epoch if isinstance(epoch, int) else None}
    return NetworkEntry(name or module.name, module.eval(), file, "weights", _hash(file), provenance)


def from_safetensors(path: str | Path, model: str, name: str | None = None) -> NetworkEntry:
    """Weights that ``reflectzoo convert`` wrote, which know their configuration.

    Args:
        path: the file.
        model: that they must be of.
        name: of the entry; None for the model's.

    Raises:
        UserError: if the file is missing, damaged, or of another model.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"weights={path} does not exist: give the path of a .safetensors file.")
    module = load_file(file, model)
    provenance = {"configuration": module.config, "epoch": None}
    return NetworkEntry(name or module.name, module, file, "weights", _hash(file), provenance)


def name_apart(entries: Sequence[Entry]) -> None:
    """Give entries that would have one name longer ones, with the hash of their weights.

    Raises:
        UserError: if two are the same, or one is called as the input is.
    """
    for entry in entries:
        entry.name = _NAME.sub("_", entry.name)
        if (entry.name == INPUT and not isinstance(entry, InputEntry)) or entry.name in ("truth", ".", ".."):
            raise UserError(f"No checkpoint and no predictions can be called '{entry.name}': choose another name.")
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    for name, alike in by_name.items():
        if len(alike) > 1:
            for entry in alike:
                entry.name = f"{name}-{str(entry.identity().get('sha256'))[:8]}"
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise UserError(f"Two of the entries are the same ('{entry.name}'): give each once, or names of their own.")
        seen.add(entry.name)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_of(checkpoint: Path) -> dict[str, Any] | None:
    """The configuration of the training run that a checkpoint lies in, as far as it is there: seed, data and so on."""
    file = checkpoint.resolve().parent.parent / "config.yaml"
    if not file.is_file():
        return None
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except Exception:  # a file of somebody else's, perhaps; provenance is a courtesy
        return None
    if not isinstance(content, dict):
        return None
    wanted = ("seed", "data", "synthesis", "trainer", "vgg_used")
    return {str(key): content[key] for key in wanted if key in content} or None
