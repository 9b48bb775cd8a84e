"""The lessons' own folder is where they run: `checks` and `recap` are found there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "lessons"))
