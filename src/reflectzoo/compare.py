"""``python -m reflectzoo.compare``: is one result better than the other, or is it noise?"""

from __future__ import annotations

import sys

from reflectzoo.evaluation.compare import main

if __name__ == "__main__":
    sys.exit(main())
