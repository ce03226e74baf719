"""Authentication: static tokens, tenants from claims, kinds of callers, and access rules from the protos."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from codeq.options.v1 import options_pb2
from codeq_server.auth.access import Access, access_of
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import WORKER_SCOPES, Claims, InvalidTenantError, Token, claims_of, tenant_of
from codeq_server.auth.static import StaticToken, StaticValidator
from codeq_server.core.errors import Reason, Rejection

PRODUCER = options_pb2.PRINCIPAL_PRODUCER
WORKER = options_pb2.PRINCIPAL_WORKER
ANY = options_pb2.PRINCIPAL_ANY
ADMIN = options_pb2.PRINCIPAL_ADMIN
ACME = {"tenantId": "acme"}


def make_producer(token: str = "p-token", **changes: Any) -> StaticToken:
    return replace(StaticToken(token, "shop", raw=ACME), **changes)


def make_worker(token: str = "w-token", **changes: Any) -> StaticToken:
    worker = StaticToken(
        token, "printer", scopes=frozenset({"codeq:claim"}), event_types=frozenset({"PRINT"}), raw=ACME
    )
    return replace(worker, **changes)


def make_authenticator(
    producer: StaticToken | None = None, worker: StaticToken | None = None, *, producer_as_worker: bool = False
) -> Authenticator:
    return Authenticator(
        StaticValidator(producer or make_producer()),
        StaticValidator(worker or make_worker()),
        producer_as_worker=producer_as_worker,
    )


def caller(authenticator: Authenticator, header: str, principal: int, scope: str = "") -> Claims:
    claims = authenticator.known(header, principal, scope)
    assert claims is not None
    return claims


def refused(authenticator: Authenticator, header: str, principal: int, scope: str = "") -> Reason:
    with pytest.raises(Rejection) as caught:
        caller(authenticator, header, principal, scope)
    assert "token" not in header or header not in caught.value.message
    return caught.value.reason


def test_authenticate_returns_the_claims_of_a_producer_token() -> None:
    claims = caller(make_authenticator(), "Bearer p-token", PRODUCER)
    assert claims == Claims("shop", "acme", frozenset(), frozenset(), role="USER", is_admin=False)


def test_authenticate_returns_the_commands_of_a_worker_token_that_has_the_scope() -> None:
    claims = caller(make_authenticator(), "bearer  w-token ", WORKER, "codeq:claim")
    assert (claims.subject, claims.tenant_id) == ("printer", "acme")
    assert claims.event_types == {"PRINT"}
    assert claims.allows_command("PRINT")
    assert not claims.allows_command("SHIP")
    assert not claims.allows_every_command


def test_claims_with_a_wildcard_allow_every_command() -> None:
    worker = make_worker(event_types=frozenset({"*"}))
    claims = caller(make_authenticator(worker=worker), "Bearer w-token", WORKER)
    assert claims.allows_every_command
    assert claims.allows_command("ANYTHING")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "p-token",
        "Basic p-token",
        "Bearer P-TOKEN",
        "Bearer p-toke",
        "Bearer p-token x",
        "Bearer p-tok\u00e9n",
        "Bearer \udcff",
        "Bearer " + "p" * 20000,
    ],
)
@pytest.mark.parametrize("principal", [PRODUCER, WORKER, ANY, ADMIN])
def test_call_without_a_known_token_is_unauthenticated(header: str, principal: int) -> None:
    assert refused(make_authenticator(), header, principal) is Reason.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("header", "principal", "message"),
    [
        ("Bearer w-token", PRODUCER, "this is a worker's token, and the call needs a producer's"),
        ("Bearer w-token", ADMIN, "this is a worker's token, and the call needs an administrator's"),
        ("Bearer p-token", WORKER, "this is a producer's token, and the call needs a worker's"),
    ],
)
def test_error_names_the_token_kind_that_the_call_needs(header: str, principal: int, message: str) -> None:
    with pytest.raises(Rejection) as caught:
        caller(make_authenticator(), header, principal)
    assert (caught.value.reason, caught.value.message) == (Reason.WRONG_TOKEN_KIND, message)


def test_error_names_the_missing_scope() -> None:
    with pytest.raises(Rejection) as caught:
        caller(make_authenticator(), "Bearer w-token", WORKER, "codeq:nack")
    assert caught.value.reason is Reason.MISSING_SCOPE
    assert "codeq:nack" in caught.value.message


@pytest.mark.parametrize("worker", [make_worker(scopes=frozenset()), make_worker(event_types=frozenset())])
def test_worker_token_that_allows_nothing_is_unauthenticated(worker: StaticToken) -> None:
    authenticator = make_authenticator(worker=worker)
    assert refused(authenticator, "Bearer w-token", WORKER) is Reason.UNAUTHENTICATED


def test_authenticate_any_prefers_the_worker_if_both_have_the_same_token() -> None:
    authenticator = make_authenticator(make_producer("same"), make_worker("same"))
    assert caller(authenticator, "Bearer same", ANY).subject == "printer"
    assert caller(authenticator, "Bearer same", PRODUCER).subject == "shop"


def test_operator_is_made_by_the_scope_of_a_producers_token_only() -> None:
    operating = frozenset({"codeq:operator"})
    of_worker = make_authenticator(make_producer("same"), make_worker("same", scopes=WORKER_SCOPES | operating))
    of_producer = make_authenticator(make_producer("same", scopes=operating), make_worker("same"))
    assert [caller(each, "Bearer same", ANY).is_operator for each in (of_worker, of_producer)] == [False, True]
    alone = make_authenticator(worker=make_worker(scopes=WORKER_SCOPES | operating))
    assert not caller(alone, "Bearer w-token", ANY).is_operator


def test_authenticate_any_accepts_either_token() -> None:
    authenticator = make_authenticator()
    assert caller(authenticator, "Bearer w-token", ANY).subject == "printer"
    assert caller(authenticator, "Bearer p-token", ANY).subject == "shop"


def test_authenticate_any_falls_back_to_the_producer_if_the_worker_has_no_event_types() -> None:
    authenticator = make_authenticator(make_producer("same"), make_worker("same", event_types=frozenset()))
    assert caller(authenticator, "Bearer same", ANY).subject == "shop"


def test_authenticate_any_does_not_fall_back_if_the_worker_has_a_bad_tenant() -> None:
    authenticator = make_authenticator(make_producer("same"), make_worker("same", raw={"tenantId": "NO"}))
    assert refused(authenticator, "Bearer same", ANY) is Reason.INVALID_TENANT


@pytest.mark.parametrize(
    "changes", [{"raw": ACME | {"role": "admin"}}, {"scopes": frozenset({"codeq:admin"})}], ids=["role", "scope"]
)
def test_authenticate_admin_accepts_the_role_or_the_scope(changes: dict[str, Any]) -> None:
    assert caller(make_authenticator(make_producer(**changes)), "Bearer p-token", ADMIN).is_admin


def test_authenticate_admin_rejects_a_plain_producer() -> None:
    assert refused(make_authenticator(), "Bearer p-token", ADMIN) is Reason.NOT_ADMIN


@pytest.mark.parametrize("principal", [PRODUCER, ADMIN])
def test_token_with_bad_tenant_claims_is_rejected(principal: int) -> None:
    authenticator = make_authenticator(make_producer(raw={"tid": "a-1", "tenantId": "b-1", "role": "ADMIN"}))
    assert refused(authenticator, "Bearer p-token", principal) is Reason.INVALID_TENANT


def test_producer_acting_as_a_worker_has_all_scopes_and_commands() -> None:
    authenticator = make_authenticator(producer_as_worker=True)
    for scope in WORKER_SCOPES:
        assert caller(authenticator, "Bearer p-token", WORKER, scope).allows_every_command
    assert caller(authenticator, "Bearer w-token", WORKER).event_types == {"PRINT"}


@pytest.mark.parametrize(
    ("raw", "scopes", "is_admin", "is_viewer"),
    [
        ({"role": " viewer "}, set(), False, True),
        ({"roles": ["GUEST", "Viewer"]}, set(), False, True),
        ({}, {"codeq:viewer"}, False, True),
        ({"roles": ["admin"]}, set(), True, False),
        ({"roles": ["VIEWER", "ADMIN"]}, set(), True, False),
        ({"role": "VIEWER"}, {"codeq:admin"}, True, False),
        ({"role": "ADMINISTRATOR", "roles": "ADMIN"}, set(), False, False),
        ({"role": ["ADMIN"], "roles": [["ADMIN"], 5, None, {"ADMIN": 1}]}, set(), False, False),
        ({"role": ["Viewer"]}, set(), False, True),
        ({"roles": "viewer"}, set(), False, True),
        ({"roles": "GUEST viewer"}, set(), False, True),
        ({"role": "guest,viewer"}, set(), False, True),
        ({"roles": [["VIEWER"], 5], "role": {"VIEWER": 1}}, set(), False, False),
        ({"role": "ADMIN USER", "roles": "ADMIN,VIEWER"}, set(), False, True),
        ({"role": "v\u0131ewer", "roles": ["adm\u0131n", "VIEWER\u017f"]}, set(), False, False),
        ({"role": "OPERATOR", "roles": ["codeq:operator", "codeq:admin"]}, set(), False, False),
    ],
)
def test_roles_come_from_two_claims_and_the_scopes(
    raw: dict[str, object], scopes: set[str], is_admin: bool, is_viewer: bool
) -> None:
    claims = claims_of(Token("shop", "", frozenset(scopes), frozenset(), raw))
    assert (claims.is_admin, claims.is_viewer, claims.is_operator) == (is_admin, is_viewer, False)


OPERATOR = frozenset({"codeq:operator"})


def test_operator_needs_no_tenant_and_creates_no_tasks_without_one() -> None:
    authenticator = make_authenticator(make_producer(subject="The operator", scopes=OPERATOR, raw={}))
    for principal in (ADMIN, ANY, options_pb2.PRINCIPAL_OPERATOR, options_pb2.PRINCIPAL_VIEWER):
        assert caller(authenticator, "Bearer p-token", principal).tenant_id == ""
    assert refused(authenticator, "Bearer p-token", PRODUCER) is Reason.INVALID_TENANT


def test_operator_with_a_tenant_creates_tasks_in_it() -> None:
    authenticator = make_authenticator(make_producer(scopes=OPERATOR))
    assert caller(authenticator, "Bearer p-token", PRODUCER).tenant_id == "acme"


@pytest.mark.parametrize("raw", [{"tenantId": "NO"}, {"tid": "a-1", "tenantId": "b-1"}, {"tenantId": None}])
def test_operator_with_malformed_tenant_claims_is_rejected(raw: dict[str, object]) -> None:
    authenticator = make_authenticator(make_producer(subject="The operator", scopes=OPERATOR, raw=raw))
    assert refused(authenticator, "Bearer p-token", options_pb2.PRINCIPAL_OPERATOR) is Reason.INVALID_TENANT


def test_operator_scope_of_a_worker_token_gives_no_rights_and_no_tenant() -> None:
    worker = make_worker(subject="The worker", scopes=OPERATOR | WORKER_SCOPES, raw={})
    authenticator = make_authenticator(worker=worker)
    assert refused(authenticator, "Bearer w-token", options_pb2.PRINCIPAL_OPERATOR) is Reason.WRONG_TOKEN_KIND
    assert refused(authenticator, "Bearer w-token", WORKER) is Reason.INVALID_TENANT


@pytest.mark.parametrize("producer_as_worker", [False, True])
def test_viewer_reads_and_neither_creates_nor_works(producer_as_worker: bool) -> None:
    viewer = frozenset({"codeq:viewer"})
    producer = make_producer("same", scopes=viewer)
    worker = make_worker("same", scopes=viewer | WORKER_SCOPES)
    authenticator = make_authenticator(producer, worker, producer_as_worker=producer_as_worker)
    for principal in (ANY, options_pb2.PRINCIPAL_VIEWER):
        assert caller(authenticator, "Bearer same", principal).is_viewer
    for principal in (PRODUCER, WORKER):
        assert refused(authenticator, "Bearer same", principal) is Reason.NOT_ALLOWED
    alone = make_authenticator(worker=worker)
    assert caller(alone, "Bearer same", ANY).is_viewer
    assert refused(alone, "Bearer same", WORKER) is Reason.NOT_ALLOWED


def test_commands_of_a_producer_token_restrict_it_in_all_it_does() -> None:
    bound = make_producer(event_types=frozenset({"PRINT"}), raw=ACME | {"role": "ADMIN"})
    authenticator = make_authenticator(bound, producer_as_worker=True)
    for principal in (PRODUCER, ANY, ADMIN, options_pb2.PRINCIPAL_VIEWER):
        claims = caller(authenticator, "Bearer p-token", principal)
        assert (claims.seen_commands, claims.sees("PRINT"), claims.sees("SHIP")) == ({"PRINT"}, True, False)
    assert caller(authenticator, "Bearer p-token", WORKER).event_types == {"PRINT"}


@pytest.mark.parametrize("event_types", [frozenset(), frozenset({"*"}), frozenset({"*", "PRINT"})])
def test_producer_without_commands_or_with_the_wildcard_sees_all(event_types: frozenset[str]) -> None:
    claims = caller(make_authenticator(make_producer(event_types=event_types)), "Bearer p-token", PRODUCER)
    assert (claims.seen_commands, claims.sees("SHIP")) == (None, True)


@pytest.mark.parametrize("scopes", [frozenset(), WORKER_SCOPES])
def test_bound_producer_that_is_a_worker_too_reads_all_tasks_only_if_it_may_work(scopes: frozenset[str]) -> None:
    bound = make_producer("same", event_types=frozenset({"PRINT"}))
    authenticator = make_authenticator(bound, make_worker("same", scopes=scopes))
    assert caller(authenticator, "Bearer same", ANY).sees("SHIP") is bool(scopes)
    assert not caller(authenticator, "Bearer same", PRODUCER).sees("SHIP")


@pytest.mark.parametrize("claim", ["tid", "tenantId", "tenant_id", "organizationId", "organization_id"])
def test_tenant_is_the_trimmed_value_of_a_single_claim(claim: str) -> None:
    assert tenant_of("Some Body", {claim: " acme-1 "}) == "acme-1"


def test_tenant_is_the_value_that_all_claims_agree_on() -> None:
    assert tenant_of("x", {"tid": "acme", "organization_id": " acme"}) == "acme"


def test_tenant_defaults_to_the_subject() -> None:
    assert tenant_of(" producer-dev ", {"role": "ADMIN"}) == "producer-dev"


@pytest.mark.parametrize(
    ("subject", "raw"),
    [
        ("acme", {"tid": "acme", "tenantId": "other"}),
        ("acme", {"tenantId": ""}),
        ("acme", {"tenantId": None}),
        ("acme", {"tenantId": 5}),
        ("acme", {"tenantId": "Acme"}),
        ("acme", {"tenantId": "1acme"}),
        ("acme", {"tenantId": "a"}),
        ("acme", {"tenantId": "a" * 64}),
        ("acme", {"tenantId": "acme\nx"}),
        ("acme", {"tenantId": "acm\u00e9"}),
        ("", {}),
        ("Some Body", {}),
    ],
)
def test_malformed_or_contradictory_tenant_claims_are_rejected(subject: str, raw: dict[str, object]) -> None:
    with pytest.raises(InvalidTenantError):
        tenant_of(subject, raw)


def test_tenants_of_minimum_and_maximum_length_are_accepted() -> None:
    assert tenant_of("ab", {}) == "ab"
    assert tenant_of("a" * 63, {}) == "a" * 63


def test_static_validator_with_a_blank_subject_uses_the_default() -> None:
    token = StaticValidator(StaticToken(" t ", subject=" ")).validate("t")
    assert token is not None
    assert token.subject == "static"


@pytest.mark.parametrize(
    ("method", "access"),
    [
        ("/codeq.v1.TaskService/CreateTask", Access(PRODUCER, "")),
        ("/codeq.v1.TaskService/ClaimTask", Access(WORKER, "codeq:claim")),
        ("/codeq.v1.TaskService/GetTask", Access(ANY, "")),
        ("/codeq.v1.QueueService/PauseQueue", Access(ADMIN, "")),
        ("/codeq.v1.QueueService/ListQueues", Access(options_pb2.PRINCIPAL_VIEWER, "")),
        ("/codeq.v1.ServerService/BackUp", Access(options_pb2.PRINCIPAL_OPERATOR, "")),
        ("/codeq.v1.TaskService/GetTaskArtifact", Access(ANY, "", content=True)),
        ("/codeq.v1.WorkerService/Work", Access(WORKER, "codeq:claim")),
        ("/codeq.v1.ProducerService/Produce", Access(PRODUCER, "")),
    ],
)
def test_access_rules_come_from_the_protos(method: str, access: Access) -> None:
    assert access_of(method) == access


@pytest.mark.parametrize("method", ["/codeq.v1.TaskService/Nothing", "", "/grpc.health.v1.Health/Check"])
def test_access_of_an_unknown_method_is_an_error(method: str) -> None:
    with pytest.raises(LookupError):
        access_of(method)
