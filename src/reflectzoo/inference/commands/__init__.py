"""The commands of ``reflectzoo``, one module each; see the table in :mod:`reflectzoo.__main__`."""
