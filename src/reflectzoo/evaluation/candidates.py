"""Entries of an evaluation: networks, and the untouched input; see also :mod:`.predictions`."""

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
    """Base class of what is scored; called an entry in results.

    Args:
        name: unique among the entries; also used as the name of a folder.
    """

    kind = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """The layers of one sample of a set, each (1, 3, H, W); None if the entry has none."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its layers are")

    def has(self, dataset: str, image: str) -> bool:
        """Whether the entry has layers for a picture of a set."""
        return True

    def identity(self) -> dict[str, Any]:
        """Everything that determines the scores of this entry; part of the plan of a run."""
        return {"kind": self.kind}

    def record(self) -> dict[str, Any]:
        """Description of the entry for a result file."""
        return {"name": self.name, "kind": self.kind}


class InputCandidate(Candidate):
    """The mixture itself as the transmission: the baseline of doing nothing."""

    kind = "input"

    def __init__(self) -> None:
        super().__init__(INPUT)

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """The mixture as the transmission."""
        return {"transmission": batch["mixture"]}


class NetworkCandidate(Candidate):
    """A trained method.

    Args:
        name: see :class:`Candidate`.
        module: in evaluation mode.
        path: file of its weights.
        kind: ``checkpoint`` written by this zoo, or ``weights`` from elsewhere.
        sha256: hash of the file.
        provenance: information in the file on how it was trained.
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
        """The outputs as in ``reflectzoo remove``."""
        return self.module.predict_batch(batch)

    def identity(self) -> dict[str, Any]:
        """The hash of the weights, the model, its configuration, the VGG weights that it uses, and how it is run."""
        return {
            "kind": self.kind,
            "model": self.module.name,
            "sha256": self.sha256,
            "vgg": (self.module.vgg_used or {}).get("fingerprint"),
            "configuration": self.provenance.get("configuration"),
            "working_size": self.module.size.working,
            "mirrored": self.module.mirrored,
        }

    def record(self) -> dict[str, Any]:
        """Description with path, hash, number of parameters, VGG weights and provenance."""
        return {
            **super().record(),
            "model": self.module.name,
            "path": str(self.path),
            "sha256": self.sha256,
            "parameters": sum(parameter.numel() for parameter in self.module.net.parameters()),
            "vgg": self.module.vgg_used,
            "working_size": self.module.size.working,
            "mirrored": self.module.mirrored,
            "provenance": self.provenance,
        }


def from_checkpoint(path: str | Path, model: str | None = None, name: str | None = None) -> NetworkCandidate:
    """Load a checkpoint written by ``reflectzoo.train``.

    Args:
        path: checkpoint file.
        model: model required; None to accept the one in the file.
        name: name of the entry; None for the model's name.

    Raises:
        UserError: if the file is missing, damaged, contains another model, or was not written by this zoo.
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
    """Load weights of a method: from its authors, ``reflectzoo convert``, or any other file that the method recognises.

    Args:
        path: weight file.
        config: configuration of the model, for files that do not contain one.
        name: name of the entry; None for the model's name.

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


def make_names_unique(entries: Sequence[Candidate]) -> None:
    """Make the names of entries unique and fit for folders, in place.

    Special characters become ``_``; to names that occur several times, the beginning of the weights' hash is appended.

    Raises:
        UserError: if two entries are the same, or one has a reserved name (``input``, ``truth``).
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
    """Parts of the configuration of the training run that a checkpoint belongs to; None if it cannot be read."""
    file = checkpoint.resolve().parent.parent / "config.yaml"
    if not file.is_file():
        return None
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except Exception:  # may be an unrelated file; provenance is optional
        return None
    if not isinstance(content, dict):
        return None
    wanted = ("seed", "data", "synthesis", "trainer", "vgg_used")
    return {str(key): content[key] for key in wanted if key in content} or None
