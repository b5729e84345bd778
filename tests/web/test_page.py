"""A realm's page in Chromium: on a phone and a desk, by day and by night, to eyes and ears."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest import SkipTest
from urllib.parse import urlsplit

from twisted.trial.unittest import TestCase

from tests.integration.raw_client import Bystanders, identities, join
from tests.integration.realm_process import RealmProcess
from tests.realm.web.test_page import WRITTEN
from tests.web.chromium import Chromium

ROOT: Final = Path(__file__).parent.parent.parent
WEB_ROOT: Final = ROOT / ".venv" / "debian-13-roots" / "web"
ARTEFACTS: Final = Path(os.environ.get("CI_ARTEFACTS") or ROOT / ".venv" / "artefacts")

SCREENS: Final = ((360, 640), (1280, 800))
SCHEMES: Final = ("light", "dark")
LEAST_CONTRAST: Final = 4.5
"""WCAG 2.2, 1.4.3."""

CONTRASTS: Final = """
(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility()) continue;
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
    const under = ground(element);
    const over = parse(getComputedStyle(element).color)
      .map((value, index) => value * opacity + under[index] * (1 - opacity));
    const [low, high] = [light(over), light(under)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), text]);
  }
  return found;
})()
"""

NAMES: Final = (
    ("banner", ""),
    ("main", ""),
    ("contentinfo", ""),
    ("status", ""),
    ("heading", "realm.example.org"),
    ("region", "Now, and the last 5 minutes"),
    ("region", "How fast"),
    ("region", "In use"),
    ("article", "Devices here"),
    ("article", "Packets"),
    ("article", "Bytes"),
    ("article", "Drops"),
    ("table", "Packets not delivered"),
    ("columnheader", "Here for"),
    ("link", "To the numbers"),
    ("link", "Metrics"),
)
"""What a screen reader must find, among others."""


class PageTests(TestCase):
    def setUp(self) -> None:
        if os.environ.get("ABST_WEB") != "1":
            raise SkipTest("'make web-test' runs a browser")
        self.folder = Path(tempfile.mkdtemp(prefix="abst-web-"))
        self.addCleanup(shutil.rmtree, self.folder)
        ARTEFACTS.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def realm(
        self, port: int = 0, name: str = "realm", *lines: str
    ) -> Iterator[tuple[RealmProcess, str]]:
        """Run a realm, with lines in its configuration; yield it, and the URL of its page."""
        folder = self.folder / name
        config = "\n".join(
            [
                'listen = ["tcp:0:interface=127.0.0.1"]',
                f'state = "{folder / "state"}"',
                f'web = "tcp:{port}:interface=127.0.0.1"',
                'host = "realm.example.org"',
                *lines,
            ]
        )
        with RealmProcess(folder, config=config) as realm:
            line = realm.log_line("status and metrics at")
            yield realm, line.rpartition(" at ")[2].strip()

    def check(self, browser: Chromium, width: int) -> None:
        """Assert what holds for the page on any screen."""
        self.assertEqual([], browser.errors)
        for expression in ("document.documentElement.scrollWidth", "document.body.scrollWidth"):
            self.assertLessEqual(browser.value(expression), width)
        contrasts = browser.value(CONTRASTS)
        self.assertGreater(len(contrasts), 40)
        low = [(round(ratio, 2), text) for ratio, text in contrasts if ratio < LEAST_CONTRAST]
        self.assertEqual([], low)

    def test_it_is_readable_on_every_screen_and_its_numbers_move(self) -> None:
        with self.realm() as (realm, url), Chromium(WEB_ROOT) as browser:
            others = [join(realm.port, identity) for identity in identities(6)]
            bystanders = Bystanders(realm.port)
            try:
                for width, height in SCREENS:
                    for scheme in SCHEMES:
                        browser.open(url, width=width, height=height, scheme=scheme)
                        self.check_live(browser, width)
                        name = f"realm-page-{width}x{height}-{scheme}.png"
                        browser.screenshot(ARTEFACTS / name)
            finally:
                bystanders.stop()
                for device in others:
                    device.close()

    def check_live(self, browser: Chromium, width: int) -> None:
        here = "document.querySelector('[data-path=here]').textContent"
        browser.wait_for(f"{here} === '8'")
        packets = "document.querySelector('[data-path=\"relayed.packets\"]').textContent"
        before = browser.value(packets)
        browser.wait_for(f"{packets} !== {before!r}")
        browser.wait_for("document.querySelectorAll('svg .curve').length === 4")
        self.check(browser, width)
        found = browser.names()
        for name in NAMES:
            self.assertIn(name, found)
        self.assertEqual("polite", browser.value("problems.ariaLive"))

    def test_it_can_be_read_without_scripts(self) -> None:
        with self.realm() as (realm, url), Chromium(WEB_ROOT) as browser:
            device = join(realm.port, identities(1)[0])
            browser.open(url, width=360, height=640, scheme="light", scripts=False)
            self.check(browser, 360)
            names = [name for _, name in browser.names()]
            self.assertIn(device.device_id.hex()[:8], names)
            self.assertIn("All is well", names)
            device.close()

    def test_it_says_when_the_realm_does_not_answer_and_when_it_is_back(self) -> None:
        with self.realm() as (realm, url), Chromium(WEB_ROOT) as browser:
            browser.open(url, width=360, height=640, scheme="light")
            browser.wait_for("document.querySelectorAll('svg .floor').length === 4")
            realm.kill()
            browser.wait_for("problems.textContent.includes('The realm does not answer')")
            browser.errors.clear()  # The browser's own words about an answer that did not come.
            self.check(browser, 360)
            self.assertEqual("No answer", browser.value("state.textContent"))
            browser.screenshot(ARTEFACTS / "realm-page-no-answer.png")
            port = urlsplit(url).port
            assert port is not None
            with self.realm(port, "next"):
                browser.wait_for("state.textContent === 'All is well'")
                self.assertEqual("", browser.value("problems.textContent"))

    def test_it_says_what_is_not_well(self) -> None:
        realm = self.realm(0, "realm", "[limits]", "connections = 4")
        with realm as (process, url), Chromium(WEB_ROOT) as browser:
            devices = [join(process.port, identity) for identity in identities(4)]
            browser.open(url, width=1280, height=800, scheme="light")
            browser.wait_for("problems.textContent.includes('4 of 4 connections are in use')")
            self.assertEqual("1 problem", browser.value("state.textContent"))
            self.check(browser, 1280)
            browser.screenshot(ARTEFACTS / "realm-page-problem.png")
            for device in devices:
                device.close()
            browser.wait_for("state.textContent === 'All is well'")
            self.assertEqual("", browser.value("problems.textContent"))

    def test_it_writes_numbers_as_the_server_does(self) -> None:
        with self.realm() as (_, url), Chromium(WEB_ROOT) as browser:
            browser.open(url, width=1280, height=800, scheme="light")
            for how, number, text in WRITTEN:
                found = browser.value(f"shown({json.dumps(number)}, {json.dumps(how)})")
                self.assertEqual(text, found, (how, number))

    def test_the_keyboard_leads_to_everything(self) -> None:
        with self.realm() as (_, url), Chromium(WEB_ROOT) as browser:
            browser.open(url, width=1280, height=800, scheme="light")
            seen = []
            for _ in range(3):
                browser.press("Tab", 9)
                seen.append(browser.value("document.activeElement.textContent"))
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                self.assertEqual("solid", browser.value(outline))
            self.assertEqual(["To the numbers", "Status as JSON", "Metrics"], seen)
