"""Checks URLs that tenants give for requests of the server."""

from __future__ import annotations

from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.shard import Shard
from codeq_server.webhooks.guard import check_form


def check_receiver(shard: Shard, field: str, url: str, malformed: Reason = Reason.INVALID_FIELD) -> None:
    """Checks a URL, as far as that is possible before its name is resolved.

    Args:
        shard: The shard, which knows the guard of this server.
        field: Path of the URL in the request.
        url: The URL.
        malformed: Reason of the rejection of a malformed URL.

    Raises:
        Rejection: `malformed`, or URL_NOT_ALLOWED if the guard refuses where the URL leads.
    """
    problem = check_form(url)
    reason = malformed
    if not problem:
        problem, reason = shard.endpoints.check_url(url), Reason.URL_NOT_ALLOWED
    if problem:
        raise Rejection(reason, f"{field}: {problem}", ((field, problem),))
