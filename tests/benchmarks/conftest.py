"""The recipe in benchmarks/ is not installed: tests import it from the repository's root."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if (ROOT / "benchmarks").is_dir():
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
else:
    collect_ignore_glob = ["*"]
