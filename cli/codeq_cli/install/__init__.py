"""Bundles that `codeq install` writes: a Compose project, or the chart with values and a secret.

Both are made of the files in `deploy` and `helm`, which wheels carry in the folder `layouts` of this package.
"""

from __future__ import annotations
