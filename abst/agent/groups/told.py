"""Groups, members and bytes as the command line is told of them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from abst.device import Device
from abst.device.groups.group import Group
from abst.device.groups.view import Member
from abst.errors import AbstError


def group_told(group: Group) -> dict[str, Any]:
    """Return how a group stands."""
    dishonest = group.values.problem
    return {
        "group": str(group),
        "group_id": str(group.group_id),
        "kind": group.kind,
        "realm": None if group.realm is None else str(group.realm),
        "epoch": group.epoch,
        "member_count": len(group.members()),
        "joined": group.is_joined,
        "here_count": len(group.here),
        "problem": None if group.problem is None else str(group.problem),
        "values_problem": None if dishonest is None else str(dishonest),
    }


def member_told(device: Device, group: Group, member: Member) -> dict[str, Any]:
    """Return how a member stands to its group, and to this device."""
    peer = device.peers.get(member.device_id)
    session = device.session_with(member.device_id)
    is_self = member.device_id == device.device_id
    return {
        "name": member.name,
        "device_id": str(member.device_id),
        "this_device": is_self,
        "here": group.is_joined if is_self else member.device_id in group.here,
        "invited": bytes(member.device_id) in group.offered,
        "peer": None if peer is None else str(peer),
        "connected": session is not None and session.path is not None,
    }


def bytes_told(key: str, content: bytes) -> dict[str, str]:
    """Return bytes as text under a key; what is not UTF-8 as base64 under another key."""
    try:
        return {key: content.decode()}
    except UnicodeDecodeError:
        return {f"{key}_base64": base64.b64encode(content).decode("ascii")}


def bytes_asked(arguments: dict[str, Any], key: str) -> bytes:
    """Return the bytes that a command was given in the form of ``bytes_told``.

    Raises:
        AbstError: they are in no such form.
    """
    try:
        if (encoded := arguments.get(f"{key}_base64")) is not None:
            return base64.b64decode(str(encoded), validate=True)
        return str(arguments[key]).encode()
    except (UnicodeEncodeError, binascii.Error):
        raise AbstError(f"the {key} is neither UTF-8 nor base64") from None
