"""Import paths: the cluster simulator builds on the node simulator, and reads Raft messages like the core's tests."""

from __future__ import annotations

import sys
from pathlib import Path

for suite in ("sim", "raft"):
    sys.path.insert(0, str(Path(__file__).parent.parent / suite))
