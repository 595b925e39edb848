"""What every command shares: running it, sentences for mistakes, the table after a multirun (:mod:`.jobs`)."""

from __future__ import annotations

from reflectzoo.cli.command import alone, answer, debugging, run
from reflectzoo.cli.sentences import did_you_mean, nearest, sentence, user_sentences

__all__ = ["alone", "answer", "debugging", "did_you_mean", "nearest", "run", "sentence", "user_sentences"]
