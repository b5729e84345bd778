"""``abst group``: sets of devices that talk to each other, and keep values together."""

from __future__ import annotations

from typing import Any

import click

from abst.cli.agent_process import ask_agent, call_agent
from abst.cli.example import GroupWithExample, WithExample
from abst.cli.group_lines import (
    event_lines,
    group_line,
    offer_line,
    show_given,
    show_left,
    show_members,
    show_removed,
    show_renamed,
)
from abst.cli.home import DeviceHome
from abst.cli.output import (
    json_option,
    note,
    one_line,
    printable,
    quantity,
    show,
    show_document,
    show_record,
    utf8,
)

POLICIES = {
    "accept": "accepted when a person has paired the peer; others wait",
    "ask": "all wait until you accept or refuse them",
    "refuse": "all are refused",
}


@click.group(
    no_args_is_help=False,
    cls=GroupWithExample,
    example="abst group create family\nabst group give family laptop\n"
    "abst group send family 'Supper is ready.'",
)
def command() -> None:
    """Form groups of devices that share messages and values.

    GROUP is a group's name, its ID, or the beginning of its ID. A network is a group as well.
    """


@command.command("create", cls=WithExample, example="abst group create family")
@click.argument("name")
@click.option(
    "--realm", metavar="ADDRESS", help="Where it is, of this device's realms; the first by default."
)
@json_option
@click.pass_obj
def create(home: DeviceHome, name: str, realm: str | None, as_json: bool) -> None:
    """Make a group called NAME, with this device in it.

    The realm passes on what its members say and keeps their values; it can read neither.
    """
    answer = ask_agent(home, "group_create", name=utf8(name, "NAME"), realm=realm)
    if as_json:
        show_document(answer)
    else:
        show(f"made {group_line(answer)}")
        note("'abst group give GROUP PEER' lets a peer in")


@command.command("give", cls=WithExample, example="abst group give family laptop")
@click.argument("group")
@click.argument("peer")
@json_option
@click.pass_obj
def give(home: DeviceHome, group: str, peer: str, as_json: bool) -> None:
    """Let PEER into GROUP.

    While PEER is away the offer waits, and reaches it by itself. PEER accepts it, or its owner
    does: see 'abst group policy'.
    """
    with call_agent(home, "group_give", group=group, peer=peer) as call:
        show_given(call.result, as_json=as_json)


@command.command("offers", cls=WithExample, example="abst group offers")
@json_option
@click.pass_obj
def offers(home: DeviceHome, as_json: bool) -> None:
    """List the groups that are offered and wait for an answer."""
    answer = ask_agent(home, "group_offers")
    if as_json:
        show_document(answer)
        return
    for offer in answer["offers"]:
        show(offer_line(offer))
    if not answer["offers"]:
        note("nothing waits: a peer offers with 'abst group give'")


@command.command("accept", cls=WithExample, example="abst group accept family")
@click.argument("group")
@json_option
@click.pass_obj
def accept(home: DeviceHome, group: str, as_json: bool) -> None:
    """Join GROUP, which a peer has offered.

    To accept a network is to trust each of its members in what it says about who belongs to it.
    """
    _answer(home, group, accepts=True, as_json=as_json)


@command.command("refuse", cls=WithExample, example="abst group refuse family")
@click.argument("group")
@json_option
@click.pass_obj
def refuse(home: DeviceHome, group: str, as_json: bool) -> None:
    """Do not join GROUP, which a peer has offered."""
    _answer(home, group, accepts=False, as_json=as_json)


def _answer(home: DeviceHome, group: str, *, accepts: bool, as_json: bool) -> None:
    answer = ask_agent(home, "group_answer", group=group, accepts=accepts)
    if as_json:
        show_document({**answer, "accepted": accepts})
    else:
        show(f"{'accepted' if accepts else 'refused'} {offer_line(answer)}")


@command.command("policy", cls=WithExample, example="abst group policy\nabst group policy ask")
@click.argument("policy", type=click.Choice(list(POLICIES)), required=False)
@json_option
@click.pass_obj
def policy(home: DeviceHome, policy: str | None, as_json: bool) -> None:
    """Tell or change what happens to groups that peers offer.

    With "accept", offers of peers that a person has paired are accepted by themselves; those of
    peers that were only introduced by a network wait. With "ask" all wait, with "refuse" all are
    refused. It counts for what is offered from now on, and after restarts.
    """
    answer = ask_agent(home, "group_policy", policy=policy)
    if as_json:
        show_document(answer)
    else:
        show(f"{answer['policy']}: {POLICIES[answer['policy']]}")


@command.command("members", cls=WithExample, example="abst group members family")
@click.argument("group")
@json_option
@click.pass_obj
def members(home: DeviceHome, group: str, as_json: bool) -> None:
    """List the members of GROUP, and tell who is here."""
    show_members(ask_agent(home, "group_members", group=group), as_json=as_json)


@command.command("list", cls=WithExample, example="abst group list")
@json_option
@click.pass_obj
def list_groups(home: DeviceHome, as_json: bool) -> None:
    """List this device's groups and networks, and how each stands."""
    answer = ask_agent(home, "group_list")
    if as_json:
        show_document(answer)
        return
    for group in answer["groups"]:
        show(group_line(group))
    if not answer["groups"]:
        note("no group yet: 'abst group create NAME' makes one")


@command.command("rename", cls=WithExample, example="abst group rename family home")
@click.argument("group")
@click.argument("name")
@json_option
@click.pass_obj
def rename(home: DeviceHome, group: str, name: str, as_json: bool) -> None:
    """Call GROUP by another NAME, for all its members."""
    answer = ask_agent(home, "group_rename", group=group, name=utf8(name, "NAME"))
    show_renamed(answer, as_json=as_json)


@command.command("remove", cls=WithExample, example="abst group remove family old-phone")
@click.argument("group")
@click.argument("member")
@json_option
@click.pass_obj
def remove(home: DeviceHome, group: str, member: str, as_json: bool) -> None:
    """Remove MEMBER from GROUP, and give the others a new key.

    What it has read it keeps; it reads nothing that is written from then on. Members that are away
    get the key when they come.
    """
    answer = ask_agent(home, "group_remove", group=group, member=member)
    show_removed(answer, as_json=as_json)


@command.command("rotate", cls=WithExample, example="abst group rotate family")
@click.argument("group")
@json_option
@click.pass_obj
def rotate(home: DeviceHome, group: str, as_json: bool) -> None:
    """Give GROUP a new key, with nobody removed."""
    answer = ask_agent(home, "group_rotate", group=group)
    if as_json:
        show_document(answer)
    elif answer["moved"]:
        show(f"{printable(answer['group'])} has a new key: its epoch is {answer['epoch']}")
    else:
        show(f"{printable(answer['group'])} gets a new key as soon as its realm is reached")


@command.command("leave", cls=WithExample, example="abst group leave family")
@click.argument("group")
@json_option
@click.pass_obj
def leave(home: DeviceHome, group: str, as_json: bool) -> None:
    """Leave GROUP; the others learn it when they are met."""
    answer = ask_agent(home, "group_leave", group=group)
    show_left(answer, as_json=as_json)


@command.command("send", cls=WithExample, example="abst group send family 'Supper is ready.'")
@click.argument("group")
@click.argument("text")
@json_option
@click.pass_obj
def send(home: DeviceHome, group: str, text: str, as_json: bool) -> None:
    """Send TEXT to the members of GROUP that are here.

    Messages to groups are not stored: who is not here does not get them. 'abst kv' keeps values
    for everybody, and 'abst message' waits for one peer.
    """
    answer = ask_agent(home, "group_send", group=group, text=utf8(text, "TEXT"))
    if as_json:
        show_document(answer)
    elif answer["here_count"]:
        others = quantity(answer["here_count"], "other member")
        show(f"sent to {printable(answer['group'])}: {others} here")
    else:
        show(f"nobody else is here in {printable(answer['group'])}: nobody has got it")


@command.command("listen", cls=WithExample, example="abst group listen family")
@click.argument("group", required=False)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@json_option
@click.pass_obj
def listen(home: DeviceHome, group: str | None, count: int | None, as_json: bool) -> None:
    """Show what happens in GROUP, or in all groups, until Ctrl-C.

    That is messages, who arrives and who leaves, new keys and problems. Messages are not stored:
    what was sent while nobody listened is gone. With --json, one line for each; the first says that
    nothing is missed from now on.
    """
    messages = 0
    with call_agent(home, "group_listen", group=group) as call:
        for event in call:
            _show_event(event, as_json=as_json)
            messages += event["kind"] == "group message"
            if messages == count:
                return


def _show_event(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_record(event)
    elif event["kind"] == "listening":
        note("abst: listening; Ctrl-C ends it")
    elif event["kind"] == "problem":
        note(f"abst: {printable(event['group'])}: {one_line(event['problem'])}")
    else:
        show(event_lines(event))
