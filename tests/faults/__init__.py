"""A fault injector for training and for folders of photographs: ``python -m tests.faults --minutes 60``."""
