"""A photograph needs no trainer and no compiler: importing them takes longer than a small one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import reflectzoo

CODE = """
import sys
from reflectzoo.__main__ import main
heavy = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "wandb", "albumentations", "kornia", "hydra"}
heavy |= {"sympy"}  # torch's compiler comes with it, in two seconds
for words in (["remove", "a.png"], ["convert", "a.ckpt"]):
    status = main(words)
    print("AFTER", words[0], status, *sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_no_trainer_is_imported(tmp_path: Path) -> None:
    Image.fromarray(np.full((480, 640, 3), 90, np.uint8)).save(tmp_path / "a.png")
    model = reflectzoo.create_model("ytmt_pcs", "model.net.width=4", "loss=pixel")
    content = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, tmp_path / "a.ckpt")
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("AFTER")]
    assert said == ["AFTER remove 0", "AFTER convert 0"]
