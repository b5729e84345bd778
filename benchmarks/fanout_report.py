"""Write the figures of the fan-out loads, and compare them with what the project wants to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.fanout import Fanout
from benchmarks.fanout_servers import FanoutServer
from benchmarks.measure import Results
from benchmarks.report import Bar, Columns, table

_OURS, _THEIRS = "abst", "nats"
_PER_CPU = "packets_per_cpu_second"
#: Deliveries per CPU second, divided by those of nats-server with TLS.
FANOUT_BAR = 0.7

_COLUMNS: Columns = (
    ("deliveries/s", "packets_per_second", "{:,.0f}"),
    ("deliveries per CPU s", _PER_CPU, "{:,.0f}"),
    ("server CPU", "server_cpu_percent", "{:.0f} %"),
    ("generator CPU", "generator_cpu_percent", "{:.0f} %"),
    ("last member p50 ms", "latency_p50_ms", "{:.2f}"),
    ("p99 ms", "latency_p99_ms", "{:.2f}"),
)
_NOTES = """\
A message to N members is N deliveries, counted where they arrive. Pipelined: the sender is as far
ahead of the slowest member as 768 KiB, or 128 MiB divided by the members, if that is less. One at a
time: the next message is sent when the last member has the one before it, and latency is the time
until then. All receivers are in one process, the generator's. A member of a group does not get its
own messages, and the brokers' sender does not subscribe. The content is canned: devices would add
149 bytes of their own encryption and signature to each, of which the server knows nothing."""


def head(servers: Sequence[FanoutServer], results: Results) -> Iterator[str]:
    """Say which servers, and what TLS negotiated with each."""
    for server in servers:
        security = results.security.get(server.name, "never reached")
        yield f"fan-out: {server.name} {server.version}: {security}"


def tables(
    servers: Sequence[FanoutServer], loads: Sequence[Fanout], results: Results
) -> Iterator[str]:
    """Write one row per load and server."""
    lines = list(table(_COLUMNS, servers, loads, results))
    if lines:
        yield from [*lines, "", _NOTES]


def bars(loads: Sequence[Fanout], results: Results) -> Iterator[Bar]:
    """Compare with nats-server, where this run has figures for both."""
    for load in loads:
        ratio = results.ratio(load.name, _OURS, _THEIRS, _PER_CPU)
        if ratio is not None:
            what = f"{load.title}, deliveries per CPU second, ratio to nats-server"
            yield Bar(load.name, what, ratio, FANOUT_BAR, ratio >= FANOUT_BAR)


def ratios(loads: Sequence[Fanout], results: Results) -> Iterator[str]:
    """Write the ratios to the other servers, for which there is no bar."""
    for load in loads:
        for other in ("nats without TLS", "mosquitto", "mosquitto without TLS"):
            ratio = results.ratio(load.name, _OURS, other, _PER_CPU)
            if ratio is not None:
                yield f"{load.title}, deliveries per CPU second, ratio to {other}: {ratio:.2f}"
