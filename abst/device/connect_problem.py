"""Why a connection to a realm was not made or is gone, and whether that is going to last."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
    NoRouteError,
    TimeoutError,
)
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.errors import AbstError, Code, IdentityError, RealmRefusedError
from abst.packets import Error

LASTING_REFUSALS: Final = frozenset(
    {
        Code.NOT_INVITED,
        Code.WRONG_INVITATION,
        Code.NOT_LISTED,
        Code.REVOKED,
        Code.WRONG_VERSION,
    }
)
"""Refusals that last until somebody does something; others pass by themselves."""


def connect_problem(failure: Failure, address: RealmAddress) -> str:
    """Return one line on why a connection was not made or is gone, and what to do."""
    where = f"{address.host}:{address.port}"
    if failure.check("OpenSSL.SSL.Error"):
        problem: Any = failure.value
        words = ", ".join(part[-1] for part in problem.args[0]) or "no reason"
        if "certificate verify failed" not in words:
            return f"{where} is no realm that this device understands (TLS: {words})"
    if failure.check("OpenSSL.SSL.Error", "service_identity.exceptions.VerificationError"):
        return (
            f"{where} shows no certificate that is valid for {address.host}: "
            "use the realm's address with its pin"
        )
    if failure.check(ConnectionDone, ConnectionLost):
        return f"{where} closed the connection"
    if failure.check(DNSLookupError):
        return f"the name {address.host} is not known: check the realm's address"
    if failure.check(TimeoutError):
        return f"{where} does not answer: is the machine on, and its firewall open?"
    if failure.check(NoRouteError):
        return f"{where} cannot be reached from this network: is this device connected?"
    if failure.check(ConnectError):
        return f"{where} refused the connection: is the realm running?"
    return f"{where}: {failure.getErrorMessage()}"


def refusal_of(error: Error) -> RealmRefusedError:
    """Return what an Error means that closes a connection."""
    return RealmRefusedError(error.code, error.reason, error.retry_after)


def lasting_refusal(problem: AbstError) -> AbstError | None:
    """Return why a link is going to stay down, or None when it may come up by itself."""
    refused = isinstance(problem, RealmRefusedError) and problem.code in LASTING_REFUSALS
    return problem if refused or isinstance(problem, IdentityError) else None
