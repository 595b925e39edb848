"""What is evaluated: networks, folders of pictures made elsewhere, and the untouched input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.inference.load import LoadedModel, load_file
from reflectzoo.weights.read import read_checkpoint, sha256_of

INPUT = "input"
_NAME = re.compile(r"[^\w.+@=-]+")


class Candidate:
    """What is scored; a result calls it an entry.

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


class InputCandidate(Candidate):
    """The mixture taken for a transmission: what doing nothing scores."""

    kind = "input"

    def __init__(self) -> None:
        super().__init__(INPUT)

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """The mixture."""
        return {"transmission": batch["mixture"]}


class NetworkCandidate(Candidate):
    """A trained method.

    Args:
        name: see :class:`Candidate`.
        module: in evaluation mode.
        path: of its weights.
        kind: ``checkpoint`` of this zoo or ``weights`` from elsewhere.
        sha256: of the file.
        provenance: what the file says about how it was made.
    """

    def __init__(
        self, name: str, module: LoadedModel, path: Path, kind: str, sha256: str, provenance: dict[str, Any]
    ) -> None:
        super().__init__(name)
        self.module = module
        self.path = path
        self.kind = kind
        self.sha256 = sha256
        self.provenance = provenance

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """One forward pass."""
        return self.module.predict_batch(batch)

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


def from_checkpoint(path: str | Path, model: str | None = None, name: str | None = None) -> NetworkCandidate:
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
    if not checkpoint.get("reflectzoo") or "state_dict" not in checkpoint:
        raise UserError(
            f"ckpt={path} was not written by reflectzoo.train, so it does not say which model it holds: give it as "
            "model=<name> weights=FILE."
        )
    module = load_file(file, model)
    provenance: dict[str, Any] = {
        "epoch": checkpoint.get("epoch"),
        "global_step": checkpoint.get("global_step"),
        "lightning": checkpoint.get("pytorch-lightning_version"),
        "configuration": module.stored.as_record(),
        "run": _run_of(file),
    }
    return NetworkCandidate(name or module.name, module, file, "checkpoint", sha256_of(file), provenance)


def from_weights(path: str | Path, config: Mapping[str, Any], name: str | None = None) -> NetworkCandidate:
    """Weights of a method: of its authors, of ``reflectzoo convert``, or any other file that its method reads.

    Args:
        path: the file.
        config: the model as configured, for files that do not say what they hold.
        name: of the entry; None for the model's.

    Raises:
        UserError: if the file is missing or damaged, or the weights do not fit the model.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"weights={path} does not exist: give the path of a file.")
    module = load_file(file, str(config["name"]), configured=config)
    return NetworkCandidate(
        name or module.name, module, file, "weights", sha256_of(file), {"configuration": module.stored.as_record()}
    )


def name_apart(entries: Sequence[Candidate]) -> None:
    """Give entries that would have one name longer ones, with the hash of their weights.

    Raises:
        UserError: if two are the same, or one is called as the input is.
    """
    for entry in entries:
        entry.name = _NAME.sub("_", entry.name)
        if (entry.name == INPUT and not isinstance(entry, InputCandidate)) or entry.name in ("truth", ".", ".."):
            raise UserError(f"No checkpoint and no predictions can be called '{entry.name}': choose another name.")
    by_name: dict[str, list[Candidate]] = {}
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
