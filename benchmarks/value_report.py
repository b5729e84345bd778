"""Write the figures of the value loads, and compare them with what the project wants to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.loads import Load
from benchmarks.measure import Results
from benchmarks.report import Bar, Columns, table
from benchmarks.value_servers import ValueServer

_OURS, _THEIRS, _THEIRS_TLS = "abst", "redis", "redis with TLS"
_PER_CPU = "packets_per_cpu_second"
#: Requests per CPU second at 100 in flight, divided by those of Redis without TLS.
VALUE_BAR = 1.0
_WITH_BAR = ("puts-100", "puts-100-connections", "gets-100", "gets-100-connections")

_COLUMNS: tuple[Columns, ...] = (
    (
        ("requests/s", "packets_per_second", "{:,.0f}"),
        ("requests per CPU s", _PER_CPU, "{:,.0f}"),
        ("server CPU", "server_cpu_percent", "{:.0f} %"),
        ("generator CPU", "generator_cpu_percent", "{:.0f} %"),
        ("p50 ms", "latency_p50_ms", "{:.2f}"),
        ("p99 ms", "latency_p99_ms", "{:.2f}"),
    ),
    (
        ("put answered p50 ms", "answered_p50_ms", "{:.2f}"),
        ("p99 ms", "answered_p99_ms", "{:.2f}"),
        ("watcher told p50 ms", "seen_p50_ms", "{:.2f}"),
        ("p99 ms", "seen_p99_ms", "{:.2f}"),
    ),
)
_NOTES = """\
Values of 100 bytes under 1,000 names of 32 bytes. A put is answered when it is on the disk: with
ABST that is SQLite's log, synchronous=FULL, and with Redis its own, appendfsync always; both join
what comes together into one sync. Latency is from sending a request to its answer. Requests in
flight are pipelined on one connection, or one each on 100. Redis is used without TLS, as it mostly
is, and with it; a realm has TLS always. A realm also hashes each change into a group's history and
keeps the last 10,000. The content is canned: devices would seal it before. A watcher is another
connection, and its delay begins when the put is sent; Redis tells it the name alone (keyspace
events), a realm the value too."""


def head(
    servers: Sequence[ValueServer], results: Results, sync_seconds: float | None
) -> Iterator[str]:
    """Say which servers, what TLS negotiated with each, and how fast the disk is."""
    for server in servers:
        security = results.security.get(server.name, "never reached")
        yield f"values: {server.name} {server.version}: {security}"
    if sync_seconds is not None:
        yield f"values: the disk syncs 100 bytes in {1000 * sync_seconds:.2f} ms (median)"


def tables(
    servers: Sequence[ValueServer], loads: Sequence[Load], results: Results
) -> Iterator[str]:
    """Write one row per load and server: requests first, then watching."""
    lines = [line for columns in _COLUMNS for line in table(columns, servers, loads, results)]
    if lines:
        yield from [*lines, "", _NOTES]


def bars(loads: Sequence[Load], results: Results) -> Iterator[Bar]:
    """Compare with Redis without TLS, where this run has figures for both."""
    for load in loads:
        ratio = results.ratio(load.name, _OURS, _THEIRS, _PER_CPU)
        if ratio is not None and load.name in _WITH_BAR:
            what = f"{load.title}, per CPU second, ratio to {_THEIRS}"
            yield Bar(load.name, what, ratio, VALUE_BAR, ratio >= VALUE_BAR)


def ratios(loads: Sequence[Load], results: Results) -> Iterator[str]:
    """Write the ratios for which there is no bar."""
    for load in loads:
        for other in (_THEIRS, _THEIRS_TLS):
            ratio = results.ratio(load.name, _OURS, other, _PER_CPU)
            has_bar = other == _THEIRS and load.name in _WITH_BAR
            if ratio is not None and not has_bar:
                yield f"{load.title}, per CPU second, ratio to {other}: {ratio:.2f}"
            ratio = results.ratio(load.name, _OURS, other, "packets_per_second")
            if ratio is not None:
                yield f"{load.title}, per second, ratio to {other}: {ratio:.2f}"
