"""Write a run's figures for people, and for programs."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence

from benchmarks.conversation import NO_TLS
from benchmarks.loads import Load
from benchmarks.measure import Results, Subject, Work
from benchmarks.servers import Server

_OURS, _THEIRS = "abst", "nats"
_PER_CPU = "packets_per_cpu_second"
#: The least ratio of packets per CPU second, ABST to nats-server, that the project wants to reach.
RATIO_BARS: Mapping[str, float] = {"pipelined-100": 0.7, "closed-100": 0.5}
#: The most that an idle connection may take, and that traffic may add to it for good. Traffic
#: should add nothing. Memory allocators make a megabyte or two of noise, however many connections
#: there are; a buffer that stays with its connection is at least a page.
IDLE_KIB_BAR = 64.0
IDLE_GROWTH_KIB_BAR = 4.0

#: Of a table: the title, the figure, and how it is written.
Columns = Sequence[tuple[str, str, str]]
_COLUMNS: Columns = (
    ("packets/s", "packets_per_second", "{:,.0f}"),
    ("packets per CPU s", _PER_CPU, "{:,.0f}"),
    ("server CPU", "server_cpu_percent", "{:.0f} %"),
    ("generator CPU", "generator_cpu_percent", "{:.0f} %"),
    ("p50 ms", "latency_p50_ms", "{:.3f}"),
    ("p99 ms", "latency_p99_ms", "{:.3f}"),
)
_IDLE_COLUMNS: Columns = (
    ("KiB each", "idle_kib", "{:.1f}"),
    ("after 200 kB each way", "idle_kib_after_traffic", "{:.1f}"),
    ("after 200 kB more", "idle_kib_after_more_traffic", "{:.1f}"),
)
_NOTES = """\
Packets are counted where they arrive; in a closed loop both directions count. Latency is a round
trip: two packets, and the generator's own time. A sender is at most 768 KiB ahead of its receiver.
CPU is user and system time of the server's process. Memory is the growth of its private pages, per
connection; the kernel's memory, such as socket buffers, is not counted. Figures are medians of the
rounds; the least and the most packets per CPU second of any round follow in brackets."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A figure that the project wants to reach."""

    load: str
    what: str
    value: float
    bar: float
    is_reached: bool

    def __str__(self) -> str:
        verdict = "reached" if self.is_reached else "falls short"
        return f"{self.what}: {self.value:.2f}, bar {self.bar:g}: {verdict}"


def head(servers: Sequence[Server], results: Results, congestion_control: str) -> Iterator[str]:
    """Say what was measured: the machine, and each server's version and TLS."""
    yield f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    yield f"TCP's congestion control: {congestion_control}"
    for server in servers:
        security = results.security.get(server.name, "never reached")
        yield f"{server.name} {server.version}: {security}"
    suites = {found.split(",")[0] for found in results.security.values()} - {NO_TLS}
    if len(suites) > 1:
        yield "The servers do not use the same cipher suite: compare with care."


def tables(servers: Sequence[Server], loads: Sequence[Load], results: Results) -> Iterator[str]:
    """Write one row per load and server: timed loads first, then memory."""
    groups = (_COLUMNS, _IDLE_COLUMNS)
    lines = [line for columns in groups for line in table(columns, servers, loads, results)]
    if lines:
        yield from [*lines, "", _NOTES]


def table(
    columns: Columns,
    subjects: Sequence[Subject],
    loads: Sequence[Work],
    results: Results,
    kind: str = "server",
    ranged: Collection[str] = (_PER_CPU,),
) -> Iterator[str]:
    """Write a blank line and one row per load and subject, where there are figures for any.

    Behind the ``ranged`` figures stand the least and the most of all rounds.
    """
    rows = [["load", kind, *(title for title, _, _ in columns)]]
    for load in loads:
        for subject in subjects:
            cells = [
                _cell(results, load.name, subject.name, figure, layout, figure in ranged)
                for _, figure, layout in columns
            ]
            if any(cells):
                rows.append([load.title, subject.name, *cells])
    if len(rows) > 1:
        yield ""
        yield from _aligned(rows)


def bars(loads: Sequence[Load], results: Results) -> list[Bar]:
    """Compare with the bars: those that this run has figures for."""
    found = []
    for load in loads:
        ratio = results.ratio(load.name, _OURS, _THEIRS, _PER_CPU)
        bar = RATIO_BARS.get(load.name)
        if ratio is not None and bar is not None:
            what = f"{load.title}, packets per CPU second, ratio to nats-server"
            found.append(Bar(load.name, what, ratio, bar, ratio >= bar))
    readings = [results.median("idle", _OURS, figure) for _, figure, _ in _IDLE_COLUMNS]
    at_once, after, after_more = readings
    if at_once is not None and after is not None and after_more is not None:
        growth = max(after, after_more) - at_once
        what = "KiB per idle connection"
        found.append(Bar("idle", what, at_once, IDLE_KIB_BAR, at_once <= IDLE_KIB_BAR))
        what = "KiB that traffic adds to an idle connection"
        is_reached = growth <= IDLE_GROWTH_KIB_BAR
        found.append(Bar("idle", what, growth, IDLE_GROWTH_KIB_BAR, is_reached))
    return found


def ratios(loads: Sequence[Load], results: Results) -> Iterator[str]:
    """Write the ratio of ABST to nats-server for each load that has no bar of its own."""
    for load in loads:
        ratio = results.ratio(load.name, _OURS, _THEIRS, _PER_CPU)
        if ratio is not None and load.name not in RATIO_BARS:
            yield f"{load.title}, packets per CPU second, ratio to nats-server: {ratio:.2f}"
    memory = results.ratio("idle", _OURS, _THEIRS, "idle_kib")
    if memory is not None:
        yield f"memory per idle connection, ratio to nats-server: {memory:.2f}"


def as_json(
    subjects: Sequence[Subject], found: Sequence[Bar], results: Results, options: object
) -> str:
    """Return all samples, and what the text reports, as JSON."""
    return json.dumps(
        {
            "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
            "options": options,
            "servers": {
                subject.name: {
                    "version": subject.version,
                    "security": results.security.get(subject.name),
                }
                for subject in subjects
            },
            "samples": [dataclasses.asdict(sample) for sample in results.samples],
            "bars": [dataclasses.asdict(bar) for bar in found],
        },
        indent=2,
    )


def _cell(
    results: Results, load: str, server: str, figure: str, layout: str, is_ranged: bool
) -> str:
    median = results.median(load, server, figure)
    if median is None:
        return ""
    text = layout.format(median)
    if is_ranged:
        values = results.values(load, server, figure)
        if len(values) > 1:
            text += f" ({layout.format(min(values))}-{layout.format(max(values))})"
    return text


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write a table in Markdown, its columns aligned: words left, figures right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = (
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join(cells)} |"
        if not number:
            rules = (
                "-" * width if column < 2 else "-" * (width - 1) + ":"
                for column, width in enumerate(widths)
            )
            yield f"| {' | '.join(rules)} |"
