"""Records of available weights, one JSON file each, and the location of their files."""

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

#: Folder of the package's weight records.
RECORDS = Path(__file__).parents[1] / "weight_records"


@dataclass(frozen=True)
class WeightRecord:
    """Metadata of one weight file, stored as one JSON file in ``weight_records/``.

    Attributes:
        name: unique name, accepted by ``--weights``.
        model: one of :func:`reflectzoo.list_models`.
        trained_by: who trained the weights.
        trained_on: training data.
        licence: licence of the weights; "unknown" if none is stated.
        source: web page that the weights come from.
        file: name of a file in the package, beside the record; or empty.
        url: download address; or empty. Without ``file`` and ``url``, users download it by hand from ``source``.
        sha256: hash of the file in hex; required if ``file`` or ``url`` is given.
        size: size of the file in bytes, or 0 if unknown.
        overrides: overrides of the model's configuration.
        metrics: benchmark -> metric -> value, as measured by reflectzoo.
        default: whether the model uses these weights if none are named.
        note: a sentence for users.
        folder: folder of the record and its file.
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
        """Whether the file is packaged or can be downloaded automatically."""
        return bool(self.file or self.url)


def records(folder: Path | None = None) -> list[WeightRecord]:
    """All records of the zoo and of plugins, sorted by name, with the defaults first.

    Args:
        folder: folder of the JSON files; defaults to the package's and those of methods with records of their own.

    Raises:
        UserError: for a record that is unreadable, incomplete or has invalid entries, or whose model its plugin lacks.
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
    """The local file of a record or URL, downloaded into torch.hub's cache if it is missing.

    Args:
        wanted: a record, or a URL whose file name ends in eight or more digits of its sha256 before the suffix
            (``name-<digits>.safetensors``).

    Raises:
        DownloadError: if the download fails or the hash differs.
        UserError: if a URL contains no hash, or a record has neither ``file`` nor ``url``.
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
