"""Speed and memory of the zoo's exact shortcuts against the plain forms they replace; ``python -m reflectzoo.bench``.

One file per subject, found by itself: a module beside this one with ``TITLE`` and ``comparisons(options)``.
"""
