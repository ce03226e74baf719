"""The cases cover the contract, and the document shows them."""

from __future__ import annotations

import coverage_of_cases
import report
from case_files import cases
from contract import METHODS, declared


def test_every_call_reason_and_field_has_a_case() -> None:
    assert coverage_of_cases.uncovered() == []


def test_no_exception_is_needless() -> None:
    assert coverage_of_cases.needless() == []


def test_reasons_are_read_from_the_comments() -> None:
    assert declared().keys() == METHODS.keys()
    assert {"TOO_LARGE", "STORAGE_FULL", "TASK_ID_TAKEN", "UNAUTHENTICATED"} <= declared()["CreateTask"]
    assert {"STALE_LEASE_TOKEN", "TOO_LARGE"} <= declared()["BatchSubmitResults"]
    assert "MISSING_SCOPE" not in declared()["GetTask"]


def test_document_is_fresh() -> None:
    text = report.DOCUMENT.read_text()
    assert text == report.document(report.results_of(text)), "run: python tests/conformance/report.py"


def test_every_sdk_runs_every_case_that_has_no_reason_not_to() -> None:
    lacking = [case.name for case in cases() if not case.why and not {"python", "go", "ts"} <= set(case.drivers)]
    assert lacking == []
