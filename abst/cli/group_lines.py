"""Groups, networks and what happens in them, as people read it."""

from __future__ import annotations

from typing import Any

from abst.cli.items import item_line, local_time
from abst.cli.output import note, one_line, printable, quantity, show, show_document


def group_line(group: dict[str, Any]) -> str:
    """Return how a group or a network stands, in one line."""
    parts = [quantity(group["member_count"], "member")]
    if group["realm"] is None:
        parts.append("without a realm")
    elif group["joined"]:
        parts.append(f"{quantity(group['here_count'], 'other')} here")
    else:
        parts.append(f"not joined: {group['problem']}")
    if group.get("values_problem"):
        parts.append(f"{group['values_problem']} ('abst kv GROUP start-again' says what to do)")
    kind = " (network)" if group["kind"] == "network" else ""
    return printable(f"{group['group_id']}  {group['group']}{kind}  {', '.join(parts)}")


def offer_line(offer: dict[str, Any]) -> str:
    """Return what is offered, and by whom, in one line."""
    what, size = offer["group_kind"], quantity(offer["member_count"], "member")
    by = f"by {offer['peer']} at {local_time(offer['received_at'])}"
    return printable(f"{offer['group_id']}  {offer['group']} ({what})  {size}, offered {by}")


def show_given(answer: dict[str, Any], *, as_json: bool) -> None:
    """Say what has become of an offer."""
    if as_json:
        show_document(answer)
    elif answer["accepted"]:
        show(f"{printable(answer['peer'])} is in {printable(answer['group'])} now")
    else:
        show(one_line(f"offered {answer['group']} to {answer['peer']}: {answer['reason']}"))
        note("the offer reaches it by itself; there, 'abst group accept' may be needed")


def show_renamed(answer: dict[str, Any], *, as_json: bool) -> None:
    """Say what a group is called from now on."""
    if as_json:
        show_document(answer)
    else:
        show(f"{answer['group_id']} is called {printable(answer['group'])} now")


def show_left(answer: dict[str, Any], *, as_json: bool) -> None:
    """Say that this device is not in a group any more."""
    if as_json:
        show_document(answer)
    else:
        show(f"left {printable(answer['group'])}")


def show_members(answer: dict[str, Any], *, as_json: bool) -> None:
    """Say who is in a group."""
    if as_json:
        show_document(answer)
        return
    for member in answer["members"]:
        show(printable(_member_line(member, has_realm=answer["realm"] is not None)))
    if answer["problem"]:
        note(f"abst: not joined, so nobody is seen: {one_line(answer['problem'])}")
    if answer["values_problem"]:
        note(f"abst: {one_line(answer['values_problem'])}")


def _member_line(member: dict[str, Any], *, has_realm: bool) -> str:
    if member["this_device"]:
        state = "this device"
    elif member["invited"]:
        state = "has not accepted yet"
    elif member["here"]:
        state = "here"
    elif member["connected"]:
        state = "connected" if not has_realm else "connected, but not here"
    else:
        state = "away"
    known = member["peer"]
    called = f" (here called {known})" if known and known != member["name"] else ""
    return f"{member['device_id']}  {member['name'] or '-'}{called}  {state}"


def show_removed(answer: dict[str, Any], *, as_json: bool) -> None:
    """Say what the removal of a member has led to."""
    if as_json:
        show_document(answer)
        return
    group = printable(answer["group"])
    show(f"removed {printable(answer['member'] or answer['device_id'])} from {group}")
    if not answer["moved"]:
        note(f"{group} gets its new key as soon as its realm is reached; until then it has the old")
    elif answer["realm"] is not None:
        note(f"{group} has a new key: its epoch is {answer['epoch']}")


def event_lines(event: dict[str, Any]) -> str:
    """Return what has happened in a group, as lines of which only the first has a time."""
    if event["kind"] == "group message":
        return item_line(event)
    who = event.get("peer")
    match event["kind"]:
        case "joined":
            what = "joined"
        case "member arrived":
            what = f"{who} is here"
        case "member left":
            what = f"{who} is not here any more"
        case "epoch":
            what = f"has a new key: its epoch is {event['epoch']}"
        case "messages missed":
            what = f"{quantity(event['count'], 'message')} of {who} did not come"
        case "messages dropped":
            what = f"{quantity(event['count'], 'message')} did not reach {who or 'the others'}"
            what += f" ({event['code']})"
        case "over":
            what = str(event["reason"])
        case kind:
            what = str(kind)
    line = one_line(f"{event['group']}: {what}")
    return f"{local_time(event['received_at'])}  {line}"
