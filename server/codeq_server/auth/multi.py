"""The `multi` provider: several providers in order; the first that accepts a token or a certificate wins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from codeq_server.auth.authenticator import Identify, Validation, Validator
from codeq_server.auth.claims import Token

PROVIDER_SECONDS_MAX: Final = 2.0
"""Longest time that one provider may take. It is shorter than the longest validation, so that others get their turn."""

_Answer = Token | Exception | None


class MultiValidator:
    """Accepts a token if one of several validators does.

    A validator that cannot tell does not stop later ones from accepting. If none accepts and one could not tell, the
    token cannot be validated at the moment: the validation raises what prevented it.
    """

    def __init__(self, validators: Sequence[Validator]) -> None:
        self._validators = tuple(validators)

    def validate(self, token: str) -> Token | Validation | None:
        """Returns the content that the first accepting validator gives; see `Validator.validate`.

        Raises:
            Exception: None accepts the token, and at least one could not tell.
        """
        answers: list[Token | Validation | Exception | None] = []
        for validator in self._validators:
            answer = self._ask(validator, token)
            if isinstance(answer, Token) and not any(callable(earlier) for earlier in answers):
                return answer
            answers.append(answer)
        waiting = [answer for answer in answers if callable(answer)]
        if not waiting:
            return _settled([answer for answer in answers if not callable(answer)])
        return lambda: _first(answers)

    @staticmethod
    def _ask(validator: Validator, token: str) -> Token | Validation | Exception | None:
        try:
            return validator.validate(token)
        except Exception as problem:  # noqa: BLE001 - it concerns only this validator
            return problem


def first_identity(identify: Sequence[Identify]) -> Identify | None:
    """Returns what identifies certificates by the first of several that knows one; None: there are none."""
    if not identify:
        return None

    def identified(certificate: bytes) -> Token | None:
        for each in identify:
            found = each(certificate)
            if found is not None:
                return found
        return None

    return identified


async def _first(answers: Sequence[Token | Validation | Exception | None]) -> Token | None:
    """Awaits the validations side by side, so that one that hangs takes no time from the others."""
    loop = asyncio.get_running_loop()
    running = [
        loop.create_task(_told(answer), name="provider-validation") if callable(answer) else answer
        for answer in answers
    ]
    told: list[_Answer] = []
    try:
        for each in running:
            if isinstance(each, asyncio.Task):
                await asyncio.wait((each,))
                answer = RuntimeError("a validation was cancelled from within") if each.cancelled() else each.result()
            else:
                answer = each
            if isinstance(answer, Token):
                return answer
            told.append(answer)
    finally:
        for each in running:
            if isinstance(each, asyncio.Task):
                each.cancel()
    return _settled(told)


async def _told(validation: Validation) -> _Answer:
    try:
        async with asyncio.timeout(PROVIDER_SECONDS_MAX):
            return await validation()
    except Exception as problem:  # noqa: BLE001 - as above
        return problem


def _settled(answers: Sequence[_Answer]) -> Token | None:
    """Returns the first content among the answers; None: every validator rejects the token.

    Raises:
        Exception: None accepts it, and a validator could not tell.
    """
    problem: Exception | None = None
    for answer in answers:
        if isinstance(answer, Token):
            return answer
        problem = problem or answer
    if problem is not None:
        raise problem
    return None
