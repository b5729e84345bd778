"""Write the figures of the circuit loads, and compare them with what the project wants to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.circuits import CircuitLoad
from benchmarks.measure import Results
from benchmarks.relays import Relay
from benchmarks.report import Bar, Columns, table

_OURS, _SYNCTHING, _WORMHOLE = "abst", "strelaysrv", "transit-relay"
_OTHERS = (_SYNCTHING, _WORMHOLE, "socat")
_PER_CPU = "mb_per_cpu_second"
_BULK = {"circuit-bulk": "one circuit", "circuit-bulk-20": "20 circuits"}
#: MB per CPU second through a realm, divided by those through the other relay.
RATIO_BARS = {_SYNCTHING: 2.0, _WORMHOLE: 5.0}

_COLUMNS: tuple[Columns, ...] = (
    (
        ("MB/s", "mb_per_second", "{:,.0f}"),
        ("MB per CPU s", _PER_CPU, "{:,.0f}"),
        ("relay CPU", "relay_cpu_percent", "{:.0f} %"),
        ("sender CPU", "sender_cpu_percent", "{:.0f} %"),
        ("receiver CPU", "receiver_cpu_percent", "{:.0f} %"),
    ),
    (
        ("p50 ms", "open_p50_ms", "{:.2f}"),
        ("p99 ms", "open_p99_ms", "{:.2f}"),
    ),
    (
        ("KiB each", "circuit_kib", "{:.1f}"),
        ("after 64 KiB each way", "circuit_kib_after_traffic", "{:.1f}"),
        ("descriptors each", "circuit_descriptors", "{:.1f}"),
    ),
)
_NOTES = """\
Bulk goes one way, in plain, and is counted where it arrives; all that was sent has arrived, and the
first 4 MiB of each circuit were compared. MB are millions of bytes. CPU is user and system time of
the relay's process and its children. Opening goes from asking to the first byte at the other end:
both peers are one process, which does one step after the other. A device asks on the connection
that it has; strelaysrv is asked on a new one, inside TLS; transit-relay is given the token; socat
knows no peers. Memory is the growth of private pages, per circuit; the kernel's, such as buffers of
sockets and pipes, is not counted. The realm's limits on circuits of one device are lifted. Figures
are medians of the rounds; the least and the most MB per CPU second follow in brackets."""


def head(relays: Sequence[Relay]) -> Iterator[str]:
    """Say which relays are compared."""
    for relay in relays:
        yield f"circuits: {relay.name} {relay.version}"


def tables(
    relays: Sequence[Relay], loads: Sequence[CircuitLoad], results: Results
) -> Iterator[str]:
    """Write one row per load and relay."""
    lines = [
        line
        for columns in _COLUMNS
        for line in table(columns, relays, loads, results, kind="relay", ranged=(_PER_CPU,))
    ]
    if lines:
        yield from [*lines, "", _NOTES]


def bars(results: Results) -> Iterator[Bar]:
    """Compare with the relays of which the project wants to be a multiple."""
    for load, circuits in _BULK.items():
        for other, bar in RATIO_BARS.items():
            ratio = results.ratio(load, _OURS, other, _PER_CPU)
            if ratio is not None:
                what = f"bulk, {circuits}, MB per CPU second, ratio to {other}"
                yield Bar(load, what, ratio, bar, ratio >= bar)


def ratios(results: Results) -> Iterator[str]:
    """Write the ratios for which there is no bar."""
    for load, figure, what, others in (
        ("circuit-bulk", _PER_CPU, "bulk, one circuit, MB per CPU second", _OTHERS[2:]),
        ("circuit-bulk-20", _PER_CPU, "bulk, 20 circuits, MB per CPU second", _OTHERS[2:]),
        ("circuit-open", "open_p50_ms", "p50 of opening a circuit", _OTHERS),
        ("circuit-idle", "circuit_kib", "memory per idle circuit", _OTHERS),
    ):
        for other in others:
            ratio = results.ratio(load, _OURS, other, figure)
            if ratio is not None:
                yield f"{what}, ratio to {other}: {ratio:.2f}"
