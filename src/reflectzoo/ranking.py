"""``python -m reflectzoo.ranking``: a page of what was measured here."""

from __future__ import annotations

import sys

from reflectzoo.evaluation.ranking import main

if __name__ == "__main__":
    sys.exit(main())
