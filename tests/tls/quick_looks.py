"""Runs a codeq command whose process looks at its files of TLS twenty times a second; a prefix of `ServerProcess`."""

from __future__ import annotations

import sys

from codeq_cli.main import main
from codeq_server.node import certificates

certificates.LOOK_SECONDS = 0.05
# What follows is: python -m codeq_cli.main COMMAND …
sys.argv = ["codeq", *sys.argv[4:]]
sys.exit(main())
