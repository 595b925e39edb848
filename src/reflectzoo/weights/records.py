"""What is known about weights that may be used, one JSON file each, and where their files lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import urlparse

import torch
from annotated_types import MinLen

from reflectzoo.core.annotations import NotNegative
from reflectzoo.core.registry import methods
from reflectzoo.core.settings import check_value
from reflectzoo.errors import UserError
from reflectzoo.weights.download import cache_path, check_hash, fetch
from reflectzoo.weights.stored import parse_metadata, shortened

#: What is known about weights that may be used, one file each.
RECORDS = Path(__file__).parents[1] / "weight_records"


@dataclass(frozen=True)
class WeightRecord:
    """What is known about one file of weights; one JSON file in ``weight_records/`` each.

    Attributes:
        name: unique; what ``--weights`` takes.
        model: one of :func:`reflectzoo.list_models`.
        trained_by: who trained them.
        trained_on: on what.
        licence: of the weights; "unknown" where nobody says.
        source: a page where they come from.
        file: name of a file in the package, beside the record; or empty.
        url: where the file can be had; or empty. With neither, people get it by hand from ``source``.
        sha256: of the file, where there is one.
        size: of the file in bytes, likewise.
        overrides: of the model's configuration.
        metrics: benchmark -> metric -> value, as measured with this program.
        default: whether the model takes these when none are named.
        note: a sentence for people.
        folder: that the record and its file lie in.
    """

    name: Annotated[str, MinLen(1)]
    model: Annotated[str, MinLen(1)]
    trained_by: str
    trained_on: str
    licence: str
    source: str = ""
    file: str = ""
    url: str = ""
    sha256: str = ""
    size: NotNegative = 0
    overrides: tuple[str, ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    default: bool = False
    note: str = ""
    folder: Path = RECORDS

    @property
    def available(self) -> bool:
        """Whether this program can get the file by itself."""
        return bool(self.file or self.url)


def records(folder: Path | None = None) -> list[WeightRecord]:
    """Every record of the zoo and of plugins, by name; those marked as default first.

    Args:
        folder: where the JSON files are; None for the package's and those of every method that brings its own.

    Raises:
        UserError: for a record that says too little, or something else than a record does.
    """
    found = [_read(file) for file in (folder or RECORDS).glob("*.json")]
    for method in methods().values() if folder is None else ():
        own = [_read(file) for file in method.records.glob("*.json")] if method.records is not None else []
        for record in own:
            if record.model not in method.models:
                raise UserError(
                    f"The weight record {record.name} in {record.folder} is of model={record.model}, which "
                    f"{method.package} does not provide."
                )
        found += own
    return sorted(found, key=lambda record: (not record.default, record.name))


_FIELDS = {each.name: each for each in fields(WeightRecord) if each.name != "folder"}


def _read(file: Path) -> WeightRecord:
    try:
        content = parse_metadata(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not a weight record: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a weight record: it must hold one JSON object, {{...}}.")
    missing = [name for name, each in _FIELDS.items() if name not in content and _needed(each)]
    if missing:
        raise UserError(f"{file} is not a weight record: it lacks {', '.join(missing)}.")
    if unknown := sorted(content.keys() - _FIELDS.keys()):
        raise UserError(f"{file}: a weight record cannot contain {shortened(unknown[0])}.")
    annotations = get_type_hints(WeightRecord, include_extras=True)
    for name, value in content.items():
        check_value(f"{file}: {name}", value, annotations[name])
    record = WeightRecord(**{**content, "overrides": tuple(content.get("overrides", ()))}, folder=file.parent)
    if record.available and not re.fullmatch(r"[0-9a-f]{64}", record.sha256):
        raise UserError(f"{file} is not a weight record: it has a file, but no sha256 of it.")
    if record.file and (Path(record.file).name != record.file or record.file == ".." or "\0" in record.file):
        raise UserError(f"{file}: 'file' must be a plain name, got {shortened(record.file)}.")
    return record


def _needed(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def locate(wanted: WeightRecord | str) -> Path:
    """The file of a record or of an address, downloaded into torch.hub's cache if it is not on this machine.

    Args:
        wanted: a record, or an address whose file name ends in eight or more digits of its sha256 before the suffix
            (``name-<digits>.safetensors``).

    Raises:
        DownloadError: if it cannot be had, or is not the file whose hash is known.
        UserError: if an address tells no hash, or a record no file.
    """
    if isinstance(wanted, str):
        digits = torch.hub.HASH_REGEX.search(Path(urlparse(wanted).path).name)
        if digits is None:
            raise UserError(
                f"{wanted} does not say the hash of its file: download it by hand and give the path, or use an address "
                "whose file is called name-<first digits of its sha256>.suffix."
            )
        return fetch(wanted, cache_path(wanted), digits.group(1))
    if wanted.file:
        path = wanted.folder / wanted.file
        check_hash(path, wanted.sha256, wanted.name)
        return path
    if not wanted.url:
        raise UserError(
            f"The weights '{wanted.name}' cannot be downloaded by a program: get them from {wanted.source} and give "
            "--weights FILE."
        )
    path = cache_path(wanted.url)
    return fetch(wanted.url, path.with_name(f"{wanted.sha256[:12]}-{path.name}"), wanted.sha256)
