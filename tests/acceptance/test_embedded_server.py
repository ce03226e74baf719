"""Contract rows about leases, retries and delays, on the server of `codeq.testing.memory_server`.

The imported tests run with the `server` of this module.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from codeq import testing
from entry_points import describe_server
from test_contract_task_life import (  # noqa: F401
    test_all_seven_statuses_are_reached,
    test_attempts_count_deliveries_except_abandoned_ones,
    test_claims_for_several_commands_prefer_priority_and_starve_none,
    test_delay_has_no_upper_bound_and_a_past_time_means_immediate_delivery,
    test_delayed_task_wakes_waiting_callers_and_is_never_early,
    test_heartbeat_extends_a_lease_and_never_shortens_it,
    test_lease_lasts_60_seconds_by_default_and_1_second_to_12_hours_on_request,
    test_nack_delay_defaults_to_the_backoff_policy,
    test_nack_or_expiry_of_the_last_attempt_sends_the_task_to_the_dlq,
    test_nacked_and_lease_expired_tasks_move_to_the_tail_but_abandoned_ones_stay,
    test_named_stream_is_identified_by_subject_and_name,
    test_queue_counters_follow_each_task,
    test_stale_token_gets_409_and_changes_nothing,
    test_task_with_an_expired_lease_is_delivered_to_a_waiting_caller,
)
from two_workers import environment


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[testing.MemoryServer]:
    """A server in this process, set up like the process that these tests have elsewhere."""
    env = environment(BACKOFF_POLICY="exponential", BACKOFF_BASE_SECONDS="2")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(describe_server(tmp_path_factory.mktemp("described"))))
        with testing.memory_server(env=env) as started:
            yield started
