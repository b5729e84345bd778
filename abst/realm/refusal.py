"""A request that the realm does not grant. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from abst.errors import Code


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a device does not get what it has asked for.

    Attributes:
        code: the wire code of the reason.
        retry_after: seconds after which asking again makes sense, or None.
        epoch: the epoch in which the peer group is that it is about, or None.
    """

    code: Code
    retry_after: float | None = None
    epoch: int | None = None
