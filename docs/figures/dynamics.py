"""``python docs/figures/dynamics.py CHECKPOINT PICTURE``: held-out sequences, their layers and motion.

The figure of this method's page: the frames of synthetic sequences, the teacher's separation of the centre frame, and
the motion of both layers in colours, with a colour key.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reflectzoo.cli import run


def draw(checkpoint: Path, picture: Path, samples: int = 2, overrides: tuple[str, ...] = ()) -> None:
    """Draw test sequences of the sample photographs, with the outputs of a checkpoint's teacher.

    Args:
        checkpoint: checkpoint of ``model=dynamics_teacher`` or ``model=dynamics``.
        picture: output file; its suffix determines the format.
        samples: number of sequences.
        overrides: overrides of the data, as on the command line.

    Raises:
        UserError: if the checkpoint contains no teacher.
    """
    import torch
    from PIL import Image

    from reflectzoo.config import build, compose_config
    from reflectzoo.data.batching import collate
    from reflectzoo.data.sampler import SampleKey
    from reflectzoo.drawing.motion import colour_wheel
    from reflectzoo.drawing.panels import draw_separations, to_uint8
    from reflectzoo.drawing.rows import separation_row
    from reflectzoo.methods.dynamics.convert import teacher_of
    from reflectzoo.weights.read import read_checkpoint

    teacher = teacher_of(read_checkpoint(checkpoint, "CHECKPOINT"), f"CHECKPOINT={checkpoint}")
    config = compose_config(["model=dynamics_teacher", "data=sequences", "data.reflection_step=[3,6]", *overrides])
    module = build(config.data)
    sequences = module.test_sets()["sequences"]
    # The whole cup, then the whole cat; the other sequences show parts of them.
    chosen = list(range(0, len(sequences), 3))[:samples]
    raw = collate([sequences.sample(SampleKey(0, key, key)) for key in chosen])
    module.draw(raw)
    batch = module.complete_batch(raw)
    with torch.no_grad():
        outputs = teacher(batch["frames"])
    page = draw_separations([separation_row(outputs, batch, index) for index in range(len(chosen))], cell=150)
    key = Image.fromarray(to_uint8(colour_wheel(64)))
    whole = Image.new("RGB", (page.width, page.height + 48), "white")
    whole.paste(page, (0, 0))
    whole.paste(key, (whole.width - key.width - 8, whole.height - key.height - 4))
    whole.save(picture, quality=88)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python docs/figures/dynamics.py", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the data, e.g. data.eval_crop=160")
    given = parser.parse_args()
    run(lambda: draw(given.checkpoint, given.picture, overrides=tuple(given.overrides)))


if __name__ == "__main__":
    main()
