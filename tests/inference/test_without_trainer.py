"""A photograph needs no trainer: importing it takes longer than a small one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CODE = """
import sys
from reflectzoo.__main__ import main
status = main(sys.argv[1:])
heavy = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "wandb", "albumentations", "kornia", "hydra"}
print("LOADED", *sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
sys.exit(status)
"""


@pytest.mark.parametrize("words", [("remove", "a.png"), ("convert", "a.ckpt")], ids=lambda words: words[0])
def test_no_trainer_is_imported(words: tuple[str, ...], tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "a.png")
    if words[0] == "convert":
        import torch

        import reflectzoo

        model = reflectzoo.create_model("ytmt_pcs", "model.net.width=4", "loss=pixel")
        content = {"state_dict": model.state_dict()}
        model.on_save_checkpoint(content)
        torch.save(content, tmp_path / "a.ckpt")
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"
