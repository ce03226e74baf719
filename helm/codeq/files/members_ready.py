"""Waits until every server of SERVER_ADDRS is ready, up to WAIT_SECONDS, before an upgrade takes one of them away."""

from __future__ import annotations

import os
import ssl
import sys
import time
import urllib.error
import urllib.request

ASK_SECONDS = 2
WITHOUT_CHECK = ssl._create_unverified_context()  # as the probes of the kubelet


def problem_of(host: str) -> str:
    """Returns why a member is not ready; empty: it is."""
    problem = ""
    for scheme in ("https", "http"):  # the upgrade may be the one that turns TLS on or off
        try:
            urllib.request.urlopen(f"{scheme}://{host}:8080/readyz", timeout=ASK_SECONDS, context=WITHOUT_CHECK).close()
        except urllib.error.HTTPError as reply:
            problem = reply.read().decode(errors="replace")
        except OSError as error:
            problem = problem or str(error)
        else:
            return ""
    return problem


hosts = [address.rpartition(":")[0] for address in os.environ.get("SERVER_ADDRS", "").split(",") if address]
deadline = time.monotonic() + float(os.environ["WAIT_SECONDS"])
while True:
    problems = {host: problem for host in hosts if (problem := problem_of(host))}
    if not problems or time.monotonic() > deadline:
        break
    time.sleep(1)
for host, problem in problems.items():
    print(f"{host} is not ready: {problem}")
if problems:
    sys.exit("Mend these members first, or upgrade with --set upgradeCheck.enabled=false")
print(f"{len(hosts)} members are ready")
