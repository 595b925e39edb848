"""Commands of ``reflectzoo`` for inference, one module each; see the table in :mod:`reflectzoo.__main__`."""
