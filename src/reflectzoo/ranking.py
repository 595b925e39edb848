"""``python -m reflectzoo.ranking``: write a page of all measured results."""

from __future__ import annotations

import sys

from reflectzoo.evaluation.ranking import main

if __name__ == "__main__":
    sys.exit(main())
