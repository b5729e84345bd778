"""What the agent does when the command line asks about groups and networks.

Owns the meaning of these commands and the words of their results. A network is a group, so one
command does for both; ``kind`` says when only a network is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from abst.address import RealmAddress
from abst.agent.groups.factory import protocol_of
from abst.agent.groups.moment import Joining, within
from abst.agent.groups.news import GroupNews
from abst.agent.groups.offers import GroupOffers
from abst.agent.groups.packets import text_message
from abst.agent.groups.policy import OfferPolicy
from abst.agent.groups.told import group_told, member_told
from abst.agent.reachability import Reachability
from abst.control import Command, Emit
from abst.device import Device, Peer
from abst.device.finding import find_one
from abst.device.groups.group import Group
from abst.device.groups.networks import NETWORK
from abst.device.groups.view import Member
from abst.errors import AbstError, GroupError

ANSWER_SECONDS: Final = 5.0
"""How long it is waited for a peer, or for a realm, before it goes on by itself."""


class GroupCommands:
    """The commands about groups and networks.

    Args:
        device: the device.
        offers: what peers offer.
        news: what happens in groups.
        save: writes the settings to disk.
    """

    def __init__(
        self, device: Device, offers: GroupOffers, news: GroupNews, save: Callable[[], None]
    ) -> None:
        self._device = device
        self._offers = offers
        self._news = news
        self._save = save
        self._reach = Reachability(device)
        self._joining = Joining(device)

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            "group_create": self.create,
            "group_list": self.list,
            "group_members": self.members,
            "group_give": self.give,
            "group_offers": self.offers,
            "group_answer": self.answer,
            "group_policy": self.policy,
            "group_rename": self.rename,
            "group_remove": self.remove,
            "group_rotate": self.rotate,
            "group_leave": self.leave,
            "group_send": self.send,
            "group_listen": self.listen,
        }

    def status(self) -> dict[str, Any]:
        """Tell how many groups, networks and offers there are."""
        networks = sum(group.kind == NETWORK for group in self._device.groups.all())
        return {
            "groups": len(self._device.groups.all()) - networks,
            "networks": networks,
            "offers": len(self._offers.all()),
        }

    def networks_of(self, peer: Peer) -> list[dict[str, str]]:
        """Return the networks in which a peer is together with this device."""
        groups = (self._device.groups.get(network) for network in peer.networks)
        return [
            {"network": str(group), "group_id": str(group.group_id)}
            for group in groups
            if group is not None
        ]

    def check_in_no_network(self, peer: Peer) -> None:
        """Make sure that a peer is in no network with this device, which would introduce it again.

        Raises:
            GroupError: it is in one; the text says what to do.
        """
        for network in self.networks_of(peer):
            name = network["network"]
            raise GroupError(
                f"{peer} is in the network {name}: 'abst network remove {name} {peer}' has all "
                f"members forget it, 'abst network leave {name}' takes this device out"
            )

    def check_unused(self, realm: RealmAddress) -> None:
        """Make sure that no group is at a realm.

        Raises:
            GroupError: one is; the text says what to do.
        """
        for group in self._device.groups.all():
            if group.realm == realm:
                raise GroupError(
                    f"the {group.kind} {group} is at this realm: 'abst {group.kind} leave' it first"
                )

    async def create(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Make a group, or a network."""
        kind = str(arguments.get("kind") or "group")
        realm = None
        if not (kind == NETWORK and arguments.get("without_realm")):
            realm = self._realm(arguments.get("realm"), kind)
        group = self._device.groups.create(str(arguments["name"]), realm=realm, kind=kind)
        await self._joining.wait(group)
        return group_told(group)

    async def list(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the groups."""
        kind = arguments.get("kind")
        groups = [g for g in self._device.groups.all() if kind in (None, g.kind)]
        return {"groups": [group_told(group) for group in groups]}

    async def members(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the members of a group."""
        group = self._group(arguments)
        await self._joining.wait(group)
        found = [member_told(self._device, group, member) for member in group.members()]
        return {**group_told(group), "members": found}

    async def give(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Let a peer into a group; done when it has accepted, or after a moment."""
        group = self._group(arguments)
        peer = self._device.peers.find(str(arguments["peer"]))
        if peer.public_key is None:
            # Its key has to stand in the roster, and has not been seen yet.
            await self._reach.connect(peer)
        given = self._device.groups.give(group, peer.device_id)
        accepted = await within(self._device.reactor, given, ANSWER_SECONDS)
        reason = None
        if not accepted:
            session = self._device.session_with(peer.device_id)
            is_connected = session is not None and session.path is not None
            reason = f"{peer} has not answered yet" if is_connected else self._reach.why_away(peer)
        return {
            **group_told(group),
            "peer": str(peer),
            "device_id": str(peer.device_id),
            "accepted": accepted,
            "reason": reason,
        }

    async def offers(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the offers that wait, and what happens to those that come."""
        found = [waiting.told() for waiting in self._offers.all()]
        return {"offers": found, "policy": str(self._offers.policy)}

    async def answer(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Accept or refuse an offer."""
        accepts = arguments["accepts"] is True
        waiting = self._offers.answer(str(arguments["group"]), accepts=accepts)
        group = self._device.groups.get(bytes(waiting.offer.group_id))
        if group is not None:
            await self._joining.wait(group)
        return waiting.told()

    async def policy(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell what happens to offers; ``policy`` changes it."""
        text = arguments.get("policy")
        if text is not None:
            self._offers.policy = OfferPolicy.parse(str(text))
            self._save()
        return {"policy": str(self._offers.policy)}

    async def rename(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Call a group something else, for all members."""
        group = self._group(arguments)
        group.rename(str(arguments["name"]))
        return group_told(group)

    async def remove(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Remove a member; done when the group has a new key, or after a moment."""
        group = self._group(arguments)
        member = self._member(group, str(arguments["member"]))
        moved = await self._moved(group, group.remove(member.device_id))
        named = {"member": member.name, "device_id": str(member.device_id)}
        return {**group_told(group), **named, "moved": moved}

    async def rotate(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Give a group a new key; done when it has one, or after a moment."""
        group = self._group(arguments)
        moved = await self._moved(group, group.rotate())
        return {**group_told(group), "moved": moved}

    async def leave(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Be in a group no more."""
        group = self._group(arguments)
        told = group_told(group)
        self._device.groups.leave(group)
        return told

    async def send(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Send a text to the members that are here."""
        group = self._group(arguments)
        content = text_message(str(arguments["text"]))
        if group.realm is not None and not await self._joining.wait(group):
            # The device would keep it until the group is joined, but not over a restart.
            raise GroupError(f"not sent: {group} is not joined: {group.problem}")
        protocol_of(group).send(content)
        return group_told(group)

    async def listen(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell what happens in a group, or in all, until nobody listens any more."""
        group = self._group(arguments) if arguments.get("group") is not None else None
        over: Deferred[None] = Deferred() if group is None else protocol_of(group).when_over()
        stop = self._news.listen(emit, group)
        try:
            emit({"kind": "listening"})
            await over
        finally:
            stop()
        return {}

    # What commands share.

    def _group(self, arguments: dict[str, Any]) -> Group:
        kind = arguments.get("kind")
        return self._device.groups.find(
            str(arguments["group"]), None if kind is None else str(kind)
        )

    def _realm(self, text: Any, kind: str) -> RealmAddress:
        """Return the realm that a text means; the first one when there is none."""
        realms = list(self._device.links)
        if text is None:
            if realms:
                return realms[0]
            without = ", or --no-realm makes a network without one" if kind == NETWORK else ""
            raise AbstError(f"this device uses no realm: 'abst realm add LINK' adds one{without}")
        found = [
            address
            for address in realms
            if text in (str(address), address.host, f"{address.host}:{address.port}")
        ]
        if len(found) != 1:
            raise AbstError(
                f"{text!r} means {len(found) or 'no'} realms: 'abst realm list' shows the addresses"
            )
        return found[0]

    def _member(self, group: Group, text: str) -> Member:
        """Return the member that a text means: its name in the group or here, or its ID."""
        members = group.members()
        return find_one(
            text,
            ((member.device_id, self._names(member), member) for member in members),
            what="member",
            otherwise=f"no member of {group} is called {text!r}: 'abst group members' lists them",
            error=GroupError,
        )

    def _names(self, member: Member) -> tuple[str, ...]:
        peer = self._device.peers.get(member.device_id)
        return (member.name,) if peer is None else (member.name, peer.name)

    async def _moved(self, group: Group, moved: Deferred[None]) -> bool:
        """Return whether a group has got its new key within a moment."""
        has_moved = await within(self._device.reactor, moved, ANSWER_SECONDS)
        if has_moved:
            await self._joining.wait(group)
        return has_moved
