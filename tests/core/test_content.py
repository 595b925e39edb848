"""Something else under the name of weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflectzoo.errors import UserError
from reflectzoo.inference.load import read_safetensors
from reflectzoo.weights.read import read_checkpoint, read_state_dict


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "a web page: download it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer, .*download it again",
        ),
        (b"", r"empty \(0 bytes\).* it again"),
        (b"Quota exceeded", "a text: download it again"),
    ],
)
def test_what_was_saved_as_weights(tmp_path: Path, data: bytes, words: str) -> None:
    for read, name in ((read_checkpoint, "a.pth"), (read_state_dict, "a.pth"), (read_safetensors, "a.safetensors")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=words) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
