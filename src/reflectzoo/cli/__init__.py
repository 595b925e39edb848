"""Code shared by all commands: running them, error messages, the summary table of a multirun (:mod:`.jobs`)."""

from __future__ import annotations

from reflectzoo.cli.command import alone, answer, debugging, run
from reflectzoo.cli.sentences import sentence, user_sentences
from reflectzoo.cli.spelling import did_you_mean, nearest

__all__ = ["alone", "answer", "debugging", "did_you_mean", "nearest", "run", "sentence", "user_sentences"]
