"""The table of defaults that all SDKs share."""

from __future__ import annotations

import codeq


def test_defaults_are_those_of_every_sdk() -> None:
    assert codeq.defaults() == {
        "concurrency": 16,
        "leaseSeconds": 60,
        "renewalsPerLease": 3,
        "drainSeconds": 30,
        "leaveSecondsMax": 5,
        "windowBytes": 16_777_216,
        "timeoutSeconds": 30,
        "unsettledMax": 4096,
        "messageItemsMax": 4096,
        "messageBytesMax": 2_097_152,
        "frameTasksMax": 4096,
        "frameBytesMax": 8_388_608,
        "inFlightTasksMax": 65_536,
        "backoffMinMs": 200,
        "backoffMaxMs": 10_000,
        "backoffFactor": 2,
        "followMinMs": 50,
        "followMaxMs": 500,
        "refreshSeconds": 60,
        "stallSeconds": 5,
        "keepaliveSeconds": 15,
        "keepaliveTimeoutSeconds": 5,
    }
