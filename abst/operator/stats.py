"""``abst-realm stats``: how the realm stands, and what goes through it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from abst.cli.example import WithExample
from abst.cli.output import (
    human_size,
    human_time,
    json_option,
    printable,
    show,
    show_document,
    show_record,
)
from abst.operator.place import Place

WATCH_SECONDS: Final = 2.0

LINE: Final = "{:>7} {:>9} {:>11} {:>12} {:>10} {:>8} {:>10}"
HEADS: Final = ("HERE", "CIRCUITS", "PACKETS/s", "RELAYED/s", "STREAMS/s", "DROPS/s", "REFUSED/s")


@click.command(cls=WithExample, example="abst-realm stats\nabst-realm stats --watch")
@click.option("--watch", is_flag=True, help="Show rates, one line every two seconds.")
@click.option(
    "--count", type=click.IntRange(1), metavar="N", help="With --watch: end after N lines."
)
@json_option
@click.pass_obj
def command(place: Place, watch: bool, count: int | None, as_json: bool) -> None:
    """Tell how the realm stands, and what goes through it.

    Numbers of packets and bytes are counted since the realm was started.
    """
    if count is not None and not watch:
        raise click.UsageError("--count goes with --watch")
    if watch:
        for number, found in enumerate(itertools.islice(rates(place), count)):
            if as_json:
                show_record(found)
            else:
                if number % 20 == 0:
                    show(LINE.format(*HEADS))
                show(_line(found))
        return
    stats = place.ask("stats")
    if as_json:
        show_document(stats)
    else:
        show(describe(stats))


def rates(place: Place, pause: Callable[[float], None] = time.sleep) -> Iterator[dict[str, Any]]:
    """Yield what goes through the realm, each time of the last seconds."""
    before = place.ask("stats")
    while True:
        pause(WATCH_SECONDS)
        stats = place.ask("stats")
        seconds = stats["uptime_seconds"] - before["uptime_seconds"]
        if seconds <= 0:  # It was started again meanwhile.
            before = stats
            continue
        yield {
            "devices_here": stats["devices_here"],
            "circuits_joined": stats["circuits_joined"],
            **{
                f"{name}_per_second": round((total - _totals(before)[name]) / seconds, 1)
                for name, total in _totals(stats).items()
            },
        }
        before = stats


def _totals(stats: dict[str, Any]) -> dict[str, int]:
    counters = stats["counters"]
    refused = (counters["refused_packets"], counters["refused_connections"])
    return {
        "packets": counters["relayed_packets"],
        "bytes": counters["relayed_bytes"],
        "circuit_bytes": counters["circuit_bytes"],
        "drops": sum(counters["dropped_packets"].values()),
        "refusals": sum(sum(codes.values()) for codes in refused),
    }


def _line(found: dict[str, Any]) -> str:
    return LINE.format(
        found["devices_here"],
        found["circuits_joined"],
        found["packets_per_second"],
        human_size(found["bytes_per_second"]),
        human_size(found["circuit_bytes_per_second"]),
        found["drops_per_second"],
        found["refusals_per_second"],
    )


def describe(stats: dict[str, Any]) -> str:
    """Return how a realm stands as lines for people."""
    counters, limits, files = stats["counters"], stats["limits"], stats["open_files"]
    rows = [
        ("realm", f"version {stats['version']}, up for {human_time(stats['uptime_seconds'])}"),
        *(("address", address) for address in stats["addresses"]),
        (
            "access",
            f"{stats['access']}: {stats['devices_allowed']} allowed, "
            f"{stats['devices_revoked']} revoked, {stats['invitations']} invitations",
        ),
        ("here", f"{stats['devices_here']} devices, {stats['open_connections']} connections"),
        ("relayed", f"{counters['relayed_packets']} packets, {_size(counters, 'relayed_bytes')}"),
        ("circuits", f"{stats['circuits_joined']} open, {_size(counters, 'circuit_bytes')} so far"),
        ("groups", f"{stats['groups']}, with {_size(stats, 'stored_bytes')} on the disk"),
        ("queues", _size(stats, "queued_bytes")),
        *([] if stats["month_bytes"] is None else [("month", _size(stats, "month_bytes"))]),
        *_codes("dropped", counters["dropped_packets"]),
        *_codes("refused", counters["refused_packets"]),
        *_codes("closed", counters["refused_connections"]),
        (
            "affords",
            f"{limits['connections']} connections and {limits['circuits']} circuits: "
            f"{files['allowed']} files may be open, the limits need {files['needed']}",
        ),
    ]
    return "\n".join(f"{name:<10}{printable(text)}" for name, text in rows)


def _size(numbers: dict[str, Any], name: str) -> str:
    return human_size(numbers[name])


def _codes(name: str, codes: dict[str, int]) -> Iterator[tuple[str, str]]:
    if codes:
        most_first = sorted(codes.items(), key=lambda item: (-item[1], item[0]))
        yield name, ", ".join(f"{count} {code}" for code, count in most_first)
