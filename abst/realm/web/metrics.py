"""A realm's numbers in the text format of Prometheus, read when somebody asks for them.

Names follow Prometheus' own advice: a unit and ``_total`` behind. No label tells a device, an
address or a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from abst import __version__
from abst.errors import Code
from abst.realm.access import Mode
from abst.realm.timings import Timings
from abst.realm.web.numbers import Numbers
from abst.realm.web.watch import Look, Watch

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

PREFIX: Final = "abst_realm_"

_DROPS: Final = (Code.TARGET_ABSENT, Code.QUEUE_FULL, Code.UNDELIVERED, Code.NOT_JOINED)
"""Why packets are dropped. These are there from the beginning, so that the first one is noticed."""


class RealmCollector(Collector):
    """Reads a realm.

    Args:
        watch: what measures it.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def describe(self) -> list[Metric]:
        """Describe nothing: the registry shall not read a realm to learn names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        watch = self._watch
        look = watch.look()
        yield InfoMetricFamily(PREFIX + "build", "The realm's version.", {"version": __version__})
        yield _gauge("start_time_seconds", "When the realm was started, since 1970.", watch.started)
        yield _gauge(
            "problems", "How many things are not well; /status names them.", len(look.problems)
        )
        yield from _access(look.numbers)
        yield from _connections(look.numbers)
        yield from _packets(look.numbers)
        yield from _circuits(look.numbers)
        yield from _groups(look.numbers)
        yield from self._measured(look)

    def _measured(self, look: Look) -> Iterator[Metric]:
        watch = self._watch
        yield _gauge(
            "store_up", "Whether the disk took what was last given to it.", look.health.is_kept
        )
        yield _counter(
            "failed_commits_total",
            "Batches that the disk did not take whole.",
            watch.failed_commits,
        )
        yield _histogram(
            "commit_seconds", "How long the disk took for each batch.", watch.commit_seconds
        )
        yield _histogram(
            "reactor_lag_seconds", "How late the reactor called what was due.", watch.lag_seconds
        )
        expires = watch.certificate_expires()
        if expires is not None:
            yield _gauge(
                "certificate_expiry_time_seconds",
                "Until when the certificate that the realm shows is good, since 1970.",
                expires,
            )
        probe = watch.probe
        if probe is None:
            return
        yield _gauge(
            "probe_up", "Whether the realm's own packets get through.", probe.problem is None
        )
        yield _by("probe_failures_total", "Probes that have failed.", "reason", probe.failures)
        yield _histogram(
            "probe_relay_seconds",
            "How long a packet took from one of the realm's own devices to the other and back.",
            probe.relay_seconds,
        )
        yield _histogram(
            "probe_entry_seconds",
            "How long the realm's own two devices took to come in, one after the other.",
            probe.entry_seconds,
        )


class Metrics:
    """What stands at /metrics.

    Args:
        watch: what measures the realm.
    """

    def __init__(self, watch: Watch) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(RealmCollector(watch))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)


def _access(numbers: Numbers) -> Iterator[Metric]:
    modes = {str(mode): int(mode == numbers.mode) for mode in Mode}
    yield _by(
        "access", "Who may use the realm: 1 for the mode in force.", "mode", modes, gauge=True
    )
    yield _gauge("listed_devices", "Devices on the list of those that may be here.", numbers.listed)
    yield _gauge("revoked_devices", "Devices that may not be here.", numbers.revoked)
    yield _gauge("invitations", "Invitations that are good.", numbers.invitations)


def _connections(numbers: Numbers) -> Iterator[Metric]:
    counters, limits = numbers.counters, numbers.limits
    yield _gauge(
        "devices_here", "Devices that are here, the realm's own not counted.", numbers.here
    )
    states = {
        "here": numbers.here,
        "before_hello": numbers.awaited + numbers.newcomers,
        "leg": numbers.legs,
    }
    yield _by(
        "connections",
        "Connections: of devices that are here, before Hello, and legs of circuits.",
        "state",
        states,
        gauge=True,
    )
    yield _gauge("connections_limit", "How many there may be, but for legs.", limits.connections)
    yield _counter("arrivals_total", "Connections whose Hello was accepted.", counters.connections)
    yield _by(
        "refused_connections_total",
        "Connections that the realm closed, or did not take.",
        "code",
        counters.refused_connections,
    )
    yield _by(
        "refused_requests_total",
        "Requests that the realm refused.",
        "code",
        counters.refused_packets,
    )
    yield _counter(
        "identity_conflicts_total",
        "How often one identity was seen on several machines.",
        counters.identity_conflicts,
    )


def _packets(numbers: Numbers) -> Iterator[Metric]:
    counters, limits = numbers.counters, numbers.limits
    yield _counter(
        "relayed_packets_total",
        "Packets put into their target's queue, the realm's own probes among them.",
        counters.relayed_packets,
    )
    yield _counter("relayed_bytes_total", "The bytes of these.", counters.relayed_bytes)
    dropped: dict[str, int] = dict.fromkeys(_DROPS, 0)
    dropped.update(counters.dropped_packets)
    yield _by("dropped_packets_total", "Packets that were not delivered.", "code", dropped)
    yield _gauge("queue_bytes", "What waits for all devices.", numbers.queue_bytes)
    yield _gauge("queue_limit_bytes", "How much may wait.", limits.all_queues_bytes)


def _circuits(numbers: Numbers) -> Iterator[Metric]:
    counters = numbers.counters
    states = {"waiting": numbers.circuits_waiting, "joined": numbers.circuits_joined}
    yield _by(
        "circuits", "Circuits: that wait for their legs, and joined.", "state", states, gauge=True
    )
    yield _gauge("circuits_limit", "How many there may be.", numbers.limits.circuits)
    yield _counter(
        "circuits_offered_total",
        "Circuits whose two devices were told of them.",
        counters.circuits_offered,
    )
    yield _counter("circuits_joined_total", "Circuits whose legs came.", counters.circuits_joined)
    yield _counter(
        "circuit_bytes_total", "Bytes that came on legs of circuits.", counters.circuit_bytes
    )
    yield _by(
        "ended_circuits_total", "Circuits that the realm ended.", "code", counters.ended_circuits
    )
    yield _by("refused_legs_total", "Legs that came to nothing.", "code", counters.refused_legs)


def _groups(numbers: Numbers) -> Iterator[Metric]:
    counters = numbers.counters
    yield _gauge("groups", "Peer groups.", numbers.groups)
    yield _gauge(
        "group_members", "How often a device that is here has joined one.", numbers.members
    )
    yield _counter("groups_made_total", "Groups that were made.", counters.groups_made)
    yield _counter(
        "groups_forgotten_total",
        "Groups that were forgotten, since nobody had used them.",
        counters.groups_forgotten,
    )
    yield _counter(
        "groups_moved_total",
        "How often a group was moved to its next epoch.",
        counters.groups_moved,
    )
    yield _counter("group_joins_total", "How often a device joined one.", counters.group_joins)
    yield _gauge("stored_bytes", "What all groups take on the disk.", numbers.stored_bytes)
    yield _gauge("stored_limit_bytes", "How much they may take.", numbers.limits.all_values_bytes)
    yield _gauge("loaded_values", "Values of the groups that are in memory.", numbers.loaded_values)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value)


def _by(
    name: str, text: str, label: str, values: Mapping[str, float], *, gauge: bool = False
) -> Metric:
    kind = GaugeMetricFamily if gauge else CounterMetricFamily
    family = kind(PREFIX + name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([str(value)], count)
    return family


def _histogram(name: str, text: str, timings: Timings) -> Metric:
    steps = [(floatToGoString(bound), float(count)) for bound, count in timings.up_to_steps()]
    return HistogramMetricFamily(PREFIX + name, text, steps, timings.total_seconds)
