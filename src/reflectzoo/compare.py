"""``python -m reflectzoo.compare``: test whether one of two results is better, or the difference is noise."""

from __future__ import annotations

import sys

from reflectzoo.evaluation.compare import main

if __name__ == "__main__":
    sys.exit(main())
