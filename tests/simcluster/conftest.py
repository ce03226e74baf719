"""The simulator of clusters is built on that of one node, and reads messages of Raft as the tests of the core do."""

from __future__ import annotations

import sys
from pathlib import Path

for suite in ("sim", "raft"):
    sys.path.insert(0, str(Path(__file__).parent.parent / suite))
