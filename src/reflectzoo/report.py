"""``python -m reflectzoo.report``: write the report of a finished evaluation."""

from __future__ import annotations

import sys

from reflectzoo.evaluation.report.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
