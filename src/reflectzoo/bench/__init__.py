"""Speed and memory of the zoo's exact optimisations, compared with the plain code; ``python -m reflectzoo.bench``.

Each subject is a module of this package with ``TITLE`` and ``comparisons(options)``, discovered automatically.
"""
