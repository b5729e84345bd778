"""The page as the server draws it: how numbers are written, and that texts stay in their places."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.web.page import FORMATS, render

TEMPLATE = (files("abst.realm.web") / "page.html").read_text("utf-8")

WRITTEN: tuple[tuple[str, float, str], ...] = (
    ("count", 0, "0"),
    ("count", 1234567, "1,234,567"),
    ("rate", 0, "0.0"),
    ("rate", 9.96, "10.0"),
    ("rate", 12.4, "12"),
    ("rate", 54321, "54,321"),
    ("bytes", 0, "0 B"),
    ("bytes", 999, "999 B"),
    ("bytes", 1000, "1.0 kB"),
    ("bytes", 12_345, "12 kB"),
    ("bytes", 999_700, "1.0 MB"),
    ("bytes", 1_073_741_824, "1.1 GB"),
    ("bytes", 5e18, "5000 PB"),
    ("time", 0.0004, "0.4 ms"),
    ("time", 0.0124, "12 ms"),
    ("time", 1.24, "1.2 s"),
    ("span", 59, "59 s"),
    ("span", 60, "1 min"),
    ("span", 3725, "1 h 2 min"),
    ("span", 183_600, "2 d 3 h"),
)
"""Numbers as the page writes them, on the server and in the browser."""


def status(**changes: Any) -> dict[str, Any]:
    """Return a status that has all that the page shows."""
    quantiles = {"p50": 0.001, "p99": None}
    most: dict[str, Any] = {"now": 1, "most": 2}
    return {
        "version": "1.2.3",
        "uptime_seconds": 61,
        "problems": [],
        "here": 0,
        "per_second": {"packets": 1.5, "bytes": 150, "drops": 0.0},
        "history": {"here": [], "packets": [1.0, 3.0], "bytes": [], "drops": []},
        "relayed": {"packets": 3, "bytes": 300},
        "dropped_packets": {},
        "refused_requests": {},
        "refused_connections": {},
        "probe": {"relay_seconds": quantiles, "entry_seconds": quantiles},
        "lag_seconds": quantiles,
        "commit_seconds": quantiles,
        "connections": most,
        "circuits": {"joined": 0, "waiting": 0, "bytes": 0},
        "groups": {"now": 0, "members": 0},
        "stored_bytes": most,
        "queue_bytes": most,
        "files": {"open": None, "most": None},
        "access": {"mode": "open", "listed_devices": 0, "invitations": 0},
        "devices": [],
        "devices_left_out": 0,
        **changes,
    }


class PageTests(SynchronousTestCase):
    def test_numbers_are_written_for_people(self) -> None:
        for how, number, text in WRITTEN:
            self.assertEqual(text, FORMATS[how](number), (how, number))

    def test_what_is_not_known_is_a_dash(self) -> None:
        text = render(TEMPLATE, status(probe=None), "")
        self.assertIn('data-path="files.open" data-format="count">\u2013</span>', text)
        self.assertIn('data-path="probe.relay_seconds.p50" data-format="time">\u2013</span>', text)

    def test_problems_and_what_is_left_out_are_said(self) -> None:
        problem = {"code": "certificate", "text": "It runs out."}
        text = render(TEMPLATE, status(problems=[problem], devices_left_out=1200), "r.example")
        self.assertIn('<p class="state bad" id="state">1 problem</p>', text)
        self.assertIn("<ul><li>It runs out.</li></ul>", text)
        self.assertIn("and 1,200 more", text)
        self.assertIn("<title>r.example: 1 problem</title>", text)

    def test_averages_are_summed_up(self) -> None:
        text = render(TEMPLATE, status(), "")
        self.assertIn("on average 2.0, at most 3.0", text)

    @given(st.text(max_size=20))
    def test_no_text_gets_out_of_its_place(self, evil: str) -> None:
        evil += "<script>$title"
        device = {"id": evil, "seconds": 1, "packets": 1, "bytes": 1, "address": evil}
        problem = {"code": "x", "text": evil}
        found = render(
            TEMPLATE,
            status(devices=[device], problems=[problem], dropped_packets={evil: 1}, version=evil),
            evil,
        )
        self.assertEqual(TEMPLATE.count("<script"), found.count("<script"))
        self.assertGreaterEqual(found.count("&lt;script&gt;$title"), 5)
