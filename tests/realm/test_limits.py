"""Limits that contradict each other are refused with the name of the one at fault."""

import dataclasses
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from abst.realm.limits import Limits

ROOT = Path(__file__).parent.parent.parent


class LimitsTests(SynchronousTestCase):
    def refused(self, **limits: float) -> str:
        """Return the name of the limit for which limits are refused."""
        error = self.assertRaises(ValueError, Limits, **limits)
        return str(error).partition(": ")[0]

    def test_the_defaults_agree_with_each_other(self) -> None:
        Limits()

    def test_each_has_a_least_value(self) -> None:
        unlimited = {limit.name for limit in dataclasses.fields(Limits) if limit.default == 0}
        none_at_all = {"circuits", "groups", "value_bytes"}
        none_at_all |= {"group_values", "group_idle_days", "group_bytes", "all_values_bytes"}
        none_at_all |= {"device_values_bytes"}
        may_be_0 = unlimited | none_at_all
        for limit in dataclasses.fields(Limits):
            for value in (-1,) if limit.name in may_be_0 else (0, -1):
                self.assertRaises(ValueError, Limits, **{limit.name: value})
        Limits(**dict.fromkeys(may_be_0, 0))

    def test_the_one_at_fault_is_named(self) -> None:
        for name in ("connections", "hello_seconds", "stall_seconds", "packet_bytes"):
            self.assertEqual(name, self.refused(**{name: 0}))
        self.assertEqual("packet_bytes", self.refused(packet_bytes=65537))
        self.assertEqual("hello_packet_bytes", self.refused(hello_packet_bytes=65537))
        self.assertEqual("queue_bytes", self.refused(queue_bytes=2 * 65536 - 1))
        self.assertEqual("queue_bytes", self.refused(packet_bytes=4096, queue_bytes=32767))
        self.assertEqual("all_queues_bytes", self.refused(all_queues_bytes=1024 * 1024 - 1))
        self.assertEqual("silence_seconds", self.refused(silence_seconds=30))
        self.assertEqual("silence_seconds", self.refused(heartbeat_seconds=20))
        self.assertEqual("group_members", self.refused(group_members=3001))
        self.assertEqual("value_bytes", self.refused(value_bytes=65537))

    def test_what_would_be_right_is_told(self) -> None:
        for limits, right in (
            ({"device_connections": 1}, "device_connections: at least 2"),
            ({"hello_seconds": 1e6}, "hello_seconds: at most 86400"),
        ):
            self.assertEqual(right, str(self.assertRaises(ValueError, Limits, **limits)))

    def test_times_are_finite_and_short_enough_for_a_timer(self) -> None:
        for limit in dataclasses.fields(Limits):
            if limit.type == "float":
                for value in (float("nan"), float("inf"), 86401.0, 1e30):
                    self.assertEqual(limit.name, self.refused(**{limit.name: value}))

    def test_the_example_configuration_shows_every_default(self) -> None:
        text = (ROOT / "etc" / "abst" / "realm.toml").read_text("utf-8")
        limits = text.partition("[limits]")[2].replace("# ", "")
        shown = tomllib.loads("\n".join(line for line in limits.splitlines() if " = " in line))
        self.assertEqual(dataclasses.asdict(Limits()), shown)
