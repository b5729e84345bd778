"""What a realm says of itself when it has started."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from abst.address import RealmAddress
from abst.realm.access import Mode
from abst.realm.introduction import STANDARD_OUTPUT, introduction, reachable_host

ADDRESSES = [RealmAddress("realm.example.org", port) for port in (4000, 4001)]
LINKS = [replace(address, invitation="cNkrsPW5vBHbuH_IZbwhuQ") for address in ADDRESSES]
FILE = Path("/state/first-invitation")


class IntroductionTests(SynchronousTestCase):
    def test_who_may_use_it_stands_under_the_address(self) -> None:
        for mode in Mode:
            *lines, meaning = introduction(ADDRESSES, [], FILE, mode, {})
            self.assertEqual([str(address) for address in ADDRESSES], lines)
            self.assertTrue(meaning.startswith((str(mode), f"for {mode}")), meaning)

    def test_a_first_device_needs_the_link(self) -> None:
        *lines, _ = introduction(ADDRESSES, LINKS, FILE, Mode.INVITED, {})
        self.assertEqual([address.link for address in LINKS], lines)

    def test_a_journal_does_not_get_it(self) -> None:
        output = os.fstat(STANDARD_OUTPUT)
        journal = {"JOURNAL_STREAM": f"{output.st_dev}:{output.st_ino}"}
        lines = introduction(ADDRESSES, LINKS, FILE, Mode.INVITED, journal)
        self.assertNotIn("invitation=", "".join(lines))
        self.assertIn(str(FILE), lines[-1])
        elsewhere = {"JOURNAL_STREAM": f"{output.st_dev}:{output.st_ino + 1}"}
        lines = introduction(ADDRESSES, LINKS, FILE, Mode.INVITED, elsewhere)
        self.assertIn("invitation=", lines[0])


class ReachableHostTests(SynchronousTestCase):
    def test_a_port_of_one_address_is_reached_there(self) -> None:
        for bound in ("127.0.0.1", "192.0.2.9", "::1", "2001:db8::9"):
            self.assertEqual(bound, reachable_host(bound))

    def test_a_port_of_all_addresses_is_reached_at_one(self) -> None:
        for bound in ("", "0.0.0.0", "::"):
            found = reachable_host(bound)
            self.assertNotIn(found, ("", "0.0.0.0", "::"))
            socket.inet_aton(found)
