"""Reading of recorded cases."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Case = Mapping[str, Any]
"""One entry of ``cases``."""

_RULE = re.compile(r"(?:numpy|np)\.random\.default_rng\((\d+)\)\.random\((\([\d, ]*\)), ?dtype=(?:numpy|np)\.float32\)")


class ParityError(Exception):
    """A recorded case cannot be read, or does not fit its description or our code; the message is one sentence."""


@dataclass(frozen=True)
class Fixture:
    """One recording: a ``.json`` file with its ``.npz`` file.

    Args:
        stem: stem of both file names.
        data: content of the json.
        arrays: content of the npz, read lazily.
    """

    stem: str
    data: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]

    @property
    def name(self) -> str:
        """Name in the recording; defaults to the stem of the file."""
        return str(self.data.get("name") or self.stem)

    @property
    def cases(self) -> list[Case]:
        """The recorded cases."""
        return list(self.data["cases"])

    @property
    def class_name(self) -> str | None:
        """Name of the authors' class, if a network was recorded; otherwise None."""
        value = self.data.get("class")
        return str(value) if value is not None else None

    @property
    def constructor(self) -> Mapping[str, Any]:
        """Arguments of the constructor of the authors' class."""
        return cast(Mapping[str, Any], self.data.get("constructor") or {})

    def comes_from(self, repository: str, *words: str) -> bool:
        """Whether the recorded program comes from a repository, and its list of files contains all the words."""
        source = self.data.get("source") or {}
        files = str(source.get("files") or "")
        return repository in str(source.get("repository") or "") and all(word in files for word in words)

    def array(self, name: str) -> npt.NDArray[Any]:
        """Read one stored array.

        Raises:
            ParityError: if there is no array of that name, or it cannot be read.
        """
        try:
            return self.arrays[name]
        except KeyError:
            raise ParityError(f"{self.stem}.npz holds no array '{name}'") from None
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
            raise ParityError(f"array '{name}' in {self.stem}.npz is damaged ({error})") from error

    def tensor(self, name: str) -> Tensor:
        """Read one stored array as a tensor of the same dtype; errors as for :meth:`array`."""
        return torch.from_numpy(np.ascontiguousarray(self.array(name)))


def load_fixture(path: Path) -> Fixture:
    """Read ``<name>.json`` and open ``<name>.npz`` beside it.

    Args:
        path: the json file.

    Raises:
        ParityError: if either file is missing or unreadable, or the json lists no cases.
    """
    if not path.is_file():
        raise ParityError(f"{path.name} is missing beside {path.with_suffix('.npz').name}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ParityError(f"{path.name} cannot be read as json ({error})") from error
    cases = data.get("cases") if isinstance(data, dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, dict) and "name" in case for case in cases):
        raise ParityError(f"{path.name} is not a recording in the form sirr-parity/1: it lists no named cases")
    if not cases:
        raise ParityError(f"{path.name} has an empty list of cases")
    npz = path.with_suffix(".npz")
    if not npz.is_file():
        raise ParityError(f"{npz.name} is missing beside {path.name}")
    try:
        arrays = np.load(npz, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ParityError(f"{npz.name} cannot be read as npz ({error})") from error
    if not isinstance(arrays, Mapping):
        raise ParityError(f"{npz.name} holds a single array, not named ones")
    return Fixture(path.stem, data, arrays)


def is_other_json(path: Path) -> bool:
    """Whether a json is readable, but not a recording: without cases, the format's name, and an ``.npz`` beside it."""
    if path.with_suffix(".npz").exists():
        return False
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return not isinstance(data, dict) or not ("cases" in data or str(data.get("format")).startswith("sirr-parity"))


def recorded_input(fixture: Fixture, spec: Mapping[str, Any]) -> Tensor:
    """Read one input of a case, or generate it by its rule; ``preprocess`` is up to the caller.

    Args:
        fixture: recording of the case.
        spec: an entry of ``inputs``.

    Returns:
        As recorded: images for networks (B, C, H, W) float32, 8-bit images (H, W, 3) uint8.

    Raises:
        ParityError: if it is neither stored nor follows the known rule, or differs in shape or hash.
    """
    name = str(spec["name"])
    if "npz" in spec:
        tensor = fixture.tensor(spec["npz"])
    elif "rule" in spec:
        tensor = torch.from_numpy(_evaluate_rule(str(spec["rule"]), name))
        wanted = spec.get("sha256")
        found = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        if wanted is not None and found != wanted:
            raise ParityError(
                f"input '{name}' follows its rule but has another sha256 ({found[:8]}, recorded {wanted[:8]}): "
                "this numpy may draw other numbers than the one in made_with"
            )
    else:
        raise ParityError(f"input '{name}' is neither stored (npz) nor given by a rule")
    if "shape" in spec and list(tensor.shape) != list(spec["shape"]):
        raise ParityError(f"input '{name}' is {tuple(tensor.shape)}, but is recorded as {tuple(spec['shape'])}")
    return tensor


def _evaluate_rule(rule: str, name: str) -> npt.NDArray[np.float32]:
    # Recordings contain only this expression. It is parsed rather than executed, since recordings are data.
    match = _RULE.fullmatch(rule.strip())
    if match is None:
        raise ParityError(f"input '{name}' follows a rule of unknown form: {rule}")
    shape = ast.literal_eval(match[2])
    drawn: npt.NDArray[np.float32] = np.random.default_rng(int(match[1])).random(shape, dtype=np.float32)
    return drawn
