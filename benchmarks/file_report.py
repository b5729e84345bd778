"""Write the figures of the files load, and compare them with what the project wants to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.files import Files
from benchmarks.measure import Results
from benchmarks.movers import Mover
from benchmarks.report import Bar, Columns, table

_LOAD, _OURS = Files.name, "abst"
_RATE = "mb_per_second"
#: MB per second of ``abst send``, divided by those of ``wormhole send``.
WORMHOLE_BAR = 5.0

_COLUMNS: tuple[Columns, ...] = (
    (
        ("seconds", "seconds", "{:.1f}"),
        ("MB/s", _RATE, "{:,.0f}"),
        ("CPU s", "cpu_seconds", "{:.1f}"),
        ("sender CPU s", "sender_cpu_seconds", "{:.1f}"),
        ("receiver CPU s", "receiver_cpu_seconds", "{:.1f}"),
        ("relay CPU s", "relay_cpu_seconds", "{:.1f}"),
    ),
    (
        ("sender MiB", "sender_mib", "{:,.0f}"),
        ("growth", "sender_growth_mib", "{:,.0f}"),
        ("receiver MiB", "receiver_mib", "{:,.0f}"),
        ("growth", "receiver_growth_mib", "{:,.0f}"),
        ("relay MiB", "relay_mib", "{:,.0f}"),
        ("growth", "relay_growth_mib", "{:,.0f}"),
    ),
)
_NOTES = """\
Whole processes: time runs from the start of the commands to the end of the last one. CPU is user
and system time of the commands and of the agents and servers that stood before. abst goes through a
realm, and wormhole through its relay: neither may connect directly. scp has nothing between. Memory
is the most, of a role's processes together, that was seen while the file went (PSS); growth is what
that is more than before. Every file has arrived as it was sent. Figures are medians of the rounds,
with the least and the most MB/s in brackets."""


def head(movers: Sequence[Mover]) -> Iterator[str]:
    """Say which programs are compared."""
    for mover in movers:
        yield f"files: {mover.name} {mover.version}"


def tables(movers: Sequence[Mover], loads: Sequence[Files], results: Results) -> Iterator[str]:
    """Write one row per program."""
    lines = [
        line
        for columns in _COLUMNS
        for line in table(columns, movers, loads, results, kind="program", ranged=(_RATE,))
    ]
    if lines:
        yield from [*lines, "", _NOTES]


def bars(results: Results) -> Iterator[Bar]:
    """Compare with ``wormhole send``."""
    ratio = results.ratio(_LOAD, _OURS, "wormhole", _RATE)
    if ratio is not None:
        what = "a file, MB per second, ratio to wormhole"
        yield Bar(_LOAD, what, ratio, WORMHOLE_BAR, ratio >= WORMHOLE_BAR)


def ratios(results: Results) -> Iterator[str]:
    """Write the ratios for which there is no bar."""
    for other, figure, what in (
        ("wormhole", "cpu_seconds", "CPU seconds of all that took part"),
        ("scp", "cpu_seconds", "CPU seconds of all that took part"),
        ("scp", _RATE, "MB per second"),
    ):
        ratio = results.ratio(_LOAD, _OURS, other, figure)
        if ratio is not None:
            yield f"a file, {what}, ratio to {other}: {ratio:.2f}"
