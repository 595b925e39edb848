"""Errors that are the user's to fix, told in one sentence."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: a path, an override, a file, a checkpoint.

    The message is one clear sentence that says what is wrong, where, and what to do. The command line
    prints it alone, without a traceback, and exits with status 2 (see :mod:`reflectzoo.cli`).
    """


class TrainingError(Exception):
    """Training cannot go on (a loss became NaN, a disk is full). Same manners as :class:`UserError`, status 1."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message says what is saved. The command line exits with status 130."""
