"""reflectzoo: a PyTorch Lightning model zoo for taking reflections out of photographs shot through glass."""

__version__ = "0.1.0"
