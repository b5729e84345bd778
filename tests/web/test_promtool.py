"""The metrics and the alert rules before promtool, which is Prometheus' own word on both."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from unittest import SkipTest

from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.carriers import in_thread
from tests.certificates import write_certificate
from tests.realm.web.live import LiveCase
from tests.realm.web.test_dashboard import RULES, alerts
from tests.web.chromium import IN_ROOT
from tests.web.test_page import WEB_ROOT

CASES = Path(__file__).with_name("alerts.yml")


class PromtoolTests(LiveCase):
    def setUp(self) -> Any:
        if os.environ.get("ABST_WEB") != "1":
            raise SkipTest("'make web-test' runs promtool")
        self.folder = Path(tempfile.mkdtemp(prefix="abst-promtool-"))
        self.addCleanup(shutil.rmtree, self.folder)
        chain, key = write_certificate(self.folder, ed25519.Ed25519PrivateKey.generate())
        self.settings = {"certificate": chain, "key": key}
        super().setUp()

    def promtool(self, *arguments: str, text: bytes = b"") -> str:
        """Return what promtool says; raise when it is not content."""
        process = subprocess.run(
            [IN_ROOT, WEB_ROOT, self.folder, "promtool", *arguments],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        said = process.stdout.decode()
        self.assertEqual(0, process.returncode, said)
        return said

    @in_thread
    def test_it_has_nothing_to_say_of_the_metrics(self) -> None:
        self.assertEqual("", self.promtool("check", "metrics", text=self.ask("/metrics").body))

    def test_it_understands_the_rules(self) -> None:
        shutil.copy(RULES, self.folder)
        said = self.promtool("check", "rules", f"/mnt/{RULES.name}")
        self.assertIn("SUCCESS", said)

    def test_a_realm_in_trouble_raises_every_alert_and_one_that_is_well_none(self) -> None:
        for path in (RULES, CASES):
            shutil.copy(path, self.folder)
        self.assertIn(f"value: {len(alerts(RULES.read_text()))}}}", CASES.read_text())
        self.assertIn("SUCCESS", self.promtool("test", "rules", f"/mnt/{CASES.name}"))
