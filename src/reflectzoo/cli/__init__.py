"""Code shared by all commands: running them, error messages, the summary table of a multirun (:mod:`.jobs`)."""

from __future__ import annotations

from reflectzoo.cli.command import debugging, run, run_reporting_errors, run_standalone
from reflectzoo.cli.sentences import sentence, user_sentences
from reflectzoo.cli.spelling import did_you_mean, nearest

__all__ = [
    "debugging",
    "did_you_mean",
    "nearest",
    "run",
    "run_reporting_errors",
    "run_standalone",
    "sentence",
    "user_sentences",
]
