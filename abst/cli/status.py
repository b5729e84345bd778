"""``abst status``: how the agent, its realms and its sessions stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from abst.cli.agent_process import running_status
from abst.cli.example import WithExample
from abst.cli.expose import exposed_line, program_line
from abst.cli.home import DeviceHome
from abst.cli.lan import lan_line
from abst.cli.output import (
    human_size,
    human_time,
    json_option,
    milliseconds,
    note,
    one_line,
    printable,
    show,
    show_document,
)
from abst.cli.realm import realm_line

NOT_RUNNING_STATUS = 1


@click.command(cls=WithExample, example="abst status")
@json_option
@click.pass_obj
@click.pass_context
def command(ctx: click.Context, home: DeviceHome, as_json: bool) -> None:
    """Tell how the agent, its realms and its sessions stand.

    The exit status is 1 when the agent is not running; it is not started for this.
    """
    home.check()
    status = running_status(home)
    if as_json:
        show_document({"running": status is not None, **(status or {"home": str(home)})})
    elif status is None:
        note(f"abst: the agent for {one_line(str(home))} is not running: 'abst up' starts it")
    else:
        show(describe(status))
    if status is None:
        ctx.exit(NOT_RUNNING_STATUS)


def describe(status: dict[str, Any]) -> str:
    """Return the agent's status as lines for people."""
    uptime = human_time(status["uptime_seconds"])
    rows = [
        ("device", f"{printable(status['name'])} {status['device_id']}".strip()),
        ("home", printable(status["home"])),
        ("agent", f"version {printable(status['version'])}, up for {uptime}"),
        ("lan", lan_line(status["lan"])),
        *(("realm", realm_line(realm)) for realm in status["realms"]),
        ("peers", str(status["peers"])),
        *_group_rows(status),
        *(("session", _session_line(session)) for session in status["sessions"]),
        *(("exposed", exposed_line(exposed)) for exposed in status.get("exposed", ())),
        *(("offered", program_line(offered)) for offered in status.get("programs", ())),
        *(("forward", _forward_line(forward)) for forward in status.get("forwards", ())),
        *(("streams", line) for line in _stream_lines(status.get("streams", ()))),
    ]
    if not status["realms"]:
        rows.insert(4, ("realms", "none: 'abst realm add LINK' adds one"))
    return "\n".join(f"{name:<8} {value}" for name, value in rows)


def _group_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(name, str(status[name])) for name in ("groups", "networks") if status.get(name)]
    if status.get("offers"):
        rows.append(("offers", f"{status['offers']}: 'abst group offers' lists them"))
    return rows


def _session_line(session: dict[str, Any]) -> str:
    path = session["path"]
    if path is not None:
        way = f"over {path}"
    elif session.get("waiting"):
        way = "waiting for a path"
    else:
        way = "resting until there is something to say"
    if session.get("path_rtt_seconds") is not None:
        way += f", {milliseconds(session['path_rtt_seconds'])}"
    if session.get("path_reason"):
        way += f" ({session['path_reason']})"
    return printable(f"{session['peer']}, {way}")


def _forward_line(forward: dict[str, Any]) -> str:
    return printable(f"{forward['address']}, to {forward['service']} of {forward['peer']}")


def _stream_lines(streams: Iterable[dict[str, Any]]) -> list[str]:
    """Return a line for each service that streams are open for; a browser opens many."""
    alike: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for stream in streams:
        alike.setdefault((stream["service"], stream["peer"], stream["path"]), []).append(stream)
    return [
        printable(
            f"{len(found)} for {service}, with {peer} over {path}, "
            f"{human_size(sum(stream['sent_bytes'] for stream in found))} out, "
            f"{human_size(sum(stream['received_bytes'] for stream in found))} in"
        )
        for (service, peer, path), found in alike.items()
    ]
