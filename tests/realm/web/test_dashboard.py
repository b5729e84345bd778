"""The dashboard and the alert rules in etc/: they speak of numbers that a realm has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from prometheus_client.parser import text_string_to_metric_families

from tests.carriers import in_thread
from tests.certificates import write_certificate
from tests.realm.web.live import LiveCase

ETC = Path(__file__).parent.parent.parent.parent / "etc"
DASHBOARD = ETC / "grafana" / "abst-realm.json"
RULES = ETC / "prometheus" / "abst-realm.rules.yml"

_NAME = re.compile(r"\b(?:abst_realm|process)_\w+")


def expressions(dashboard: Any) -> Iterator[str]:
    """Return everything that a dashboard asks Prometheus for."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        query = variable["query"]
        if isinstance(query, dict):
            yield query["query"]


def alerts(text: str) -> dict[str, str]:
    """Return the text of each rule under its name."""
    first, *rules = text.split("- alert: ")
    assert "groups:" in first
    return {rule.split("\n", 1)[0]: rule for rule in rules}


class ObserversTests(LiveCase):
    def setUp(self) -> Any:
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        chain, key = write_certificate(folder, ed25519.Ed25519PrivateKey.generate())
        self.settings = {"certificate": chain, "key": key}
        super().setUp()

    @in_thread
    def test_dashboard_and_rules_use_names_that_a_realm_has(self) -> None:
        text = self.ask("/metrics").body.decode()
        known = {
            sample.name
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        # What is counted by code has no sample before the first one.
        known |= {f"{name}_total" for name in re.findall(r"^# TYPE (\w+)_total", text, re.M)}
        asked = list(expressions(json.loads(DASHBOARD.read_text("utf-8"))))
        self.assertGreater(len(asked), 20)
        names = set(_NAME.findall("\n".join(asked)))
        names |= set(_NAME.findall(RULES.read_text("utf-8")))
        self.assertEqual(set(), names - known)
        self.assertIn("abst_realm_certificate_expiry_time_seconds", names)

    @in_thread
    def test_a_certificate_that_runs_out_is_a_problem_and_does_not_stop_the_probe(self) -> None:
        found = self.ask("/status").json
        self.assertEqual(["certificate"], [problem["code"] for problem in found["problems"]])
        self.assertIsNone(found["probe"]["problem"])

    def test_every_rule_says_what_to_do(self) -> None:
        found = alerts(RULES.read_text("utf-8"))
        self.assertGreater(len(found), 10)
        for name, rule in found.items():
            for part in ("expr:", "severity:", "summary:", "runbook:"):
                self.assertIn(part, rule, name)

    def test_every_panel_has_a_title_and_its_words(self) -> None:
        dashboard = json.loads(DASHBOARD.read_text("utf-8"))
        for panel in dashboard["panels"]:
            self.assertTrue(panel["title"] and panel["description"] and panel["targets"])
        numbers = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(numbers), len(set(numbers)))
