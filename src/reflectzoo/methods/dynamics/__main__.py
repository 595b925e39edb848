"""``python -m reflectzoo.methods.dynamics CHECKPOINT STUDENT``: extract the student from a checkpoint of both."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from reflectzoo.cli import run


def main() -> None:
    """Run the command line; exits with status 0, 1 (the file cannot be written) or 2 (invalid arguments or input)."""
    parser = argparse.ArgumentParser(prog="python -m reflectzoo.methods.dynamics", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of model=dynamics")
    parser.add_argument("student", type=Path, help="the file to write: a checkpoint of model=dynamics_student")
    given = parser.parse_args()

    def take_out() -> None:
        import torch

        from reflectzoo.methods.dynamics.convert import student_checkpoint
        from reflectzoo.weights.read import read_checkpoint

        student = student_checkpoint(read_checkpoint(given.checkpoint, "CHECKPOINT"), f"CHECKPOINT={given.checkpoint}")
        torch.save(student, given.student)
        logging.getLogger(__name__).info("The student is in %s", given.student.resolve())

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    run(take_out)


if __name__ == "__main__":
    main()
