"""Groups that peers offer to this device: accepted by themselves, or kept until a person decides.

An offer that waits is gone with the agent's process; its peer makes it again when the two meet.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from abst.agent.groups.policy import OfferPolicy
from abst.device import PeerBook
from abst.device.finding import find_one
from abst.device.groups.protocol import GroupOffer
from abst.errors import AbstError


@dataclass(frozen=True, slots=True)
class WaitingOffer:
    """An offer about which nobody has decided.

    Attributes:
        offer: what is offered, by whom.
        received_at: when it came, in ISO 8601.
        decided: fires with whether this device wants it.
    """

    offer: GroupOffer
    received_at: str
    decided: Deferred[bool]

    def told(self) -> dict[str, Any]:
        """Return it as the command line is told of it."""
        return {
            "kind": "group offer",
            "group": self.offer.name or str(self.offer.group_id),
            "group_id": str(self.offer.group_id),
            "group_kind": self.offer.kind,
            "peer": str(self.offer.peer),
            "device_id": str(self.offer.peer.device_id),
            "member_count": self.offer.members,
            "received_at": self.received_at,
        }


class GroupOffers:
    """All offers, and what happens to them. The device's groups bound how many there are.

    Args:
        peers: whom this device trusts.
        policy: what the owner has chosen.
        notify: is told of each offer that waits.

    Attributes:
        policy: what happens to offers that come from now on.
    """

    def __init__(
        self, peers: PeerBook, policy: OfferPolicy, notify: Callable[[dict[str, Any]], None]
    ) -> None:
        self.policy = policy
        self._peers = peers
        self._notify = notify
        self._waiting: dict[bytes, WaitingOffer] = {}

    def decide(self, offer: GroupOffer) -> bool | Deferred[bool]:
        """Return whether this device wants a group, or a Deferred of that."""
        if self.policy is OfferPolicy.REFUSE:
            return False
        # Whoever was only introduced is trusted since other devices said so: a person has to want
        # more of it than that.
        if self.policy is OfferPolicy.ACCEPT and not offer.peer.is_introduced:
            return True
        group_id = bytes(offer.group_id)
        decided: Deferred[bool] = Deferred(lambda _: self._withdraw(group_id))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        waiting = self._waiting[group_id] = WaitingOffer(offer, now, decided)
        self._notify(waiting.told())
        return decided

    def all(self) -> list[WaitingOffer]:
        """Return the offers that wait, oldest first."""
        return list(self._waiting.values())

    def answer(self, text: str, *, accepts: bool) -> WaitingOffer:
        """Decide about an offer.

        Args:
            text: the group's name, its ID, or the beginning of the ID.
            accepts: whether this device wants it.

        Raises:
            AbstError: no offer is meant, or several are, or whoever made it is not trusted any
                more.
        """
        waiting = self._find(text)
        offer = waiting.offer
        del self._waiting[bytes(offer.group_id)]
        peer = self._peers.get(offer.peer.device_id)
        is_trusted = peer is not None and peer.is_trusted
        waiting.decided.callback(accepts and is_trusted)
        if accepts and not is_trusted:
            raise AbstError(f"{offer.peer} is not trusted any more: its offer is refused")
        return waiting

    def _withdraw(self, group_id: bytes) -> None:
        self._waiting.pop(group_id, None)

    def _find(self, text: str) -> WaitingOffer:
        return find_one(
            text,
            ((one.offer.group_id, (one.offer.name,), one) for one in self.all()),
            what="offer",
            otherwise=f"no group called {text!r} is offered: 'abst group offers' lists them",
        )
