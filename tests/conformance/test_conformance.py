"""Every case against every driver that has its operations. A missing driver is a failure."""

from __future__ import annotations

import pytest
from case_files import Case, cases
from case_run import CaseFailed, CaseRun
from case_world import World
from driver_builds import DriverMissing

PARAMETERS = [
    pytest.param(case, driver, id=f"{case.subject}-{case.name}-{driver}", marks=pytest.mark.timeout(case.seconds + 90))
    for case in sorted(cases(), key=lambda each: (each.server == "cluster", each.server))
    for driver in case.drivers
]
"""Sorted by server, so that few test processes start the cluster."""


@pytest.mark.parametrize(("case", "driver"), PARAMETERS)
def test_case(world: World, case: Case, driver: str) -> None:
    try:
        CaseRun(world, case, driver).run()
    except (DriverMissing, CaseFailed) as failed:
        trouble = f"{case.says}\n{failed}"
    else:
        return
    pytest.fail(trouble, pytrace=False)
