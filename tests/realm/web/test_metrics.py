"""A realm's metrics, read as Prometheus reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from abst import __version__
from abst.errors import Code
from abst.realm.counters import Counters
from abst.realm.store.sqlite import _Job
from tests.carriers import in_reactor, in_thread, until
from tests.integration.raw_client import identities, join
from tests.realm.web.live import LiveCase

ALICE, BOB = identities(2)
NOBODY = bytes(6) + b"\x80\x00\x80" + bytes(7)


class MetricsTests(LiveCase):
    def samples(self) -> dict[str, list[Sample]]:
        """Return all samples, by their names."""
        found: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(self.ask("/metrics").body.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """Return the value of one sample of the realm's."""
        wanted = labels or {}
        samples = self.samples()[f"abst_realm_{name}"]
        (found,) = [float(it.value) for it in samples if it.labels == wanted]
        return found

    @in_thread
    def test_what_goes_through_is_counted(self) -> None:
        with join(self.realm_port, ALICE) as alice, join(self.realm_port, BOB) as bob:
            for _ in range(5):
                alice.send_to(bob.device_id, b"x" * 100)
            for _ in range(5):
                bob.receive()
            alice.send_to(NOBODY, b"nobody is there")
            alice.receive_error()
            self.assertEqual(2, self.value("devices_here"))
            self.assertEqual(2, self.value("connections", {"state": "here"}))
        self.assertGreaterEqual(self.value("relayed_packets_total"), 5)
        self.assertGreater(self.value("relayed_bytes_total"), 500)
        self.assertEqual(2, self.value("arrivals_total"))

    @in_thread
    def test_drops_are_told_by_their_reason_and_from_the_beginning(self) -> None:
        self.assertEqual(0, self.value("dropped_packets_total", {"code": "target_absent"}))
        assert self.service.factory is not None
        counters = self.service.factory.realm.counters
        in_reactor(counters.dropped_packets.update, {Code.TARGET_ABSENT: 3, Code.QUEUE_FULL: 2})
        in_reactor(counters.refused_connections.update, {Code.HELLO_LATE: 4})
        until(self._is_new, "another second")
        self.assertEqual(3, self.value("dropped_packets_total", {"code": "target_absent"}))
        self.assertEqual(2, self.value("dropped_packets_total", {"code": "queue_full"}))
        self.assertEqual(4, self.value("refused_connections_total", {"code": "hello_late"}))

    def _is_new(self) -> bool:
        """Tell whether what was shown last is a second old."""
        watch = self.service._web.watch
        assert watch is not None
        return watch._monotonic() - watch._looked_at > 1.0

    @in_thread
    def test_the_realms_own_probe_is_timed(self) -> None:
        watch = self.shown.watch
        assert watch is not None and watch.probe is not None
        probe = watch.probe
        until(lambda: probe.relay_seconds.count, "the first probe")
        self.assertEqual(1, self.value("probe_up"))
        self.assertEqual(1, self.value("probe_relay_seconds_count"))
        self.assertEqual(1, self.value("probe_entry_seconds_count"))
        self.assertEqual(0, self.value("probe_failures_total", {"reason": "no_answer"}))
        self.assertEqual(0, self.value("devices_here"))

    @in_thread
    def test_histograms_rise_up_to_their_count(self) -> None:
        found = self.samples()
        names = {name.removesuffix("_bucket") for name in found if name.endswith("_bucket")}
        self.assertEqual(
            {
                "abst_realm_commit_seconds",
                "abst_realm_reactor_lag_seconds",
                "abst_realm_probe_relay_seconds",
                "abst_realm_probe_entry_seconds",
            },
            names,
        )
        for name in names:
            counts = [sample.value for sample in found[f"{name}_bucket"]]
            self.assertEqual(sorted(counts), counts, name)
            self.assertEqual(counts[-1], found[f"{name}_count"][0].value)
            self.assertEqual(math.inf, float(found[f"{name}_bucket"][-1].labels["le"]))

    @in_thread
    def test_what_the_disk_takes_is_timed(self) -> None:
        watch = self.shown.watch
        assert watch is not None
        commits = watch.commit_seconds
        assert self.service.factory is not None
        access = self.service.factory.realm.access
        in_reactor(access.invite, 1, None, "", lambda is_kept: None)
        until(lambda: commits.count, "a commit")
        self.assertGreaterEqual(self.value("commit_seconds_count"), 1)
        self.assertEqual((1, 0), (self.value("store_up"), self.value("failed_commits_total")))

    @in_thread
    def test_what_the_disk_does_not_take_is_a_problem(self) -> None:
        watch, store = self.shown.watch, self.service._store
        assert watch is not None and store is not None
        in_reactor(store._ask, _Job(fail, None, lambda answer: None, None))
        until(lambda: watch.failed_commits, "a batch that fails")
        self.assertEqual((0, 1), (self.value("store_up"), self.value("failed_commits_total")))
        (problem,) = self.ask("/status").json["problems"]
        self.assertEqual("not_kept", problem["code"])
        in_reactor(store.follow, b"a group", lambda is_kept: None)
        until(lambda: watch.commit_seconds.count == 2, "a batch that is kept")
        until(self._is_new, "another second")
        self.assertEqual(1, self.value("store_up"))

    @in_thread
    def test_the_realm_and_its_process_are_described(self) -> None:
        found = self.samples()
        self.assertEqual({"version": __version__}, found["abst_realm_build_info"][0].labels)
        modes = {it.labels["mode"]: it.value for it in found["abst_realm_access"]}
        self.assertEqual({"open": 1, "invited": 0, "listed": 0}, modes)
        self.assertGreater(found["process_open_fds"][0].value, 5)
        self.assertGreater(found["process_max_fds"][0].value, 5)

    @in_thread
    def test_every_counter_of_the_realm_is_shown(self) -> None:
        """A number that is counted and not shown is of no use to who runs the realm."""
        assert self.service.factory is not None
        counters = self.service.factory.realm.counters
        in_reactor(fill, counters)
        numbers = {sample.value for samples in self.samples().values() for sample in samples}
        for number, name in enumerate(Counters.__dataclass_fields__, 70):
            # The realm's own probe may go on counting meanwhile.
            known = range(number * 1000, number * 1000 + 1000)
            self.assertTrue(any(value in known for value in numbers), name)

    @in_thread
    def test_no_label_tells_a_device_or_an_address(self) -> None:
        with join(self.realm_port, ALICE):
            found = self.samples()
        labels = {name for samples in found.values() for it in samples for name in it.labels}
        own = {"code", "state", "mode", "reason", "le", "version"}
        self.assertLessEqual(labels, own)


def fail(tables: object, argument: object) -> None:
    """Be what a full disk is."""
    raise OSError("no space left")


def fill(counters: Counters) -> None:
    """Give each counter a number of its own."""
    for number, (name, value) in enumerate(
        ((name, getattr(counters, name)) for name in Counters.__dataclass_fields__), 70
    ):
        if isinstance(value, dict):
            value[Code.RATE_LIMITED] = number * 1000
        else:
            setattr(counters, name, number * 1000)
