"""An override that a configuration cannot take is named, whatever Hydra says about it."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from reflectzoo.cli import sentence
from reflectzoo.config import config_dir, register_resolvers


@pytest.mark.parametrize(
    ("config_name", "words", "said"),
    [
        ("train", "seed=1 ~loss.terms.exclusin epochs=2", "There is no setting 'loss.terms.exclusin'; did you mean"),
        ("train", "space=lite", "There is no setting 'space'."),
        ("train", "~optimizer.lr=5", "The setting 'optimizer.lr' is not 5: write ~optimizer.lr."),
        ("train", "+optimizer.lr=5", "There is a setting 'optimizer.lr' already: write optimizer.lr=5."),
        ("train", "seed=1 model=3", "There is no model=3. Choose from: bdn,"),
        ("train", "model=lite,ytmt_pcs", "'model=lite,ytmt_pcs' gives several values: add -m"),
        ("evaluate", "limit=3", "Say which benchmark: benchmark=<name>, one of cdr,"),
        ("evaluate", "benchmrk=sample", "There is no setting 'benchmrk'; did you mean benchmark?"),
        ("evaluate", "benchmark=sample limt=3", "There is no setting 'limt'; did you mean limit?"),
    ],
)
def test_one_sentence_names_it(config_name: str, words: str, said: str) -> None:
    register_resolvers()
    with initialize_config_dir(config_dir(), version_base="1.3"), pytest.raises(Exception) as raised:  # noqa: PT011
        compose(config_name, overrides=words.split())
    told = sentence(raised.value, words.split(), config_name)
    assert told is not None
    assert told[0].startswith(said)
    assert told[1] == 2
