"""Which of the addresses that others announce can be dialled; the rest is in test_discovery."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.device.dns_sd import MAX_ADDRESSES, dialable

LOOPBACK = "127.0.0.1"


class DialableTests(SynchronousTestCase):
    def test_addresses_of_a_network(self) -> None:
        hosts = ["192.0.2.1", "10.0.0.1", "169.254.1.1", "2001:db8::1", "fd00::1"]
        found = dialable(hosts, 4242, on_loopback=False)
        self.assertEqual([(host, 4242) for host in hosts], found)

    def test_link_local_addresses_name_their_interface(self) -> None:
        index, name = socket.if_nameindex()[0]
        found = dialable([f"fe80::1%{index}"], 4242, on_loopback=False)
        self.assertEqual([(f"fe80::1%{name}", 4242)], found)

    def test_what_nobody_can_dial(self) -> None:
        for host in (
            *("0.0.0.0", "0.1.2.3", "224.0.0.251", "255.255.255.255", "240.0.0.1", "127.0.0.1"),
            *("::", "::1", "ff02::fb", "fe80::1", "fe80::1%0", "fe80::1%4294967295", "fe80::1%x"),
            *("::ffff:192.0.2.1", "", "localhost", "192.0.2.1.5"),
        ):
            self.assertEqual([], dialable([host], 4242, on_loopback=False), host)

    def test_ports(self) -> None:
        for port in (None, 0, -1, 65536):
            self.assertEqual([], dialable(["192.0.2.1"], port, on_loopback=False))
        self.assertEqual([("192.0.2.1", 65535)], dialable(["192.0.2.1"], 65535, on_loopback=False))

    def test_loopback_counts_where_it_is_asked_for(self) -> None:
        found = dialable([LOOPBACK, "::1"], 1, on_loopback=True)
        self.assertEqual([(LOOPBACK, 1), ("::1", 1)], found)

    @given(st.lists(st.text() | st.ip_addresses().map(str)), st.none() | st.integers())
    def test_anything_gives_a_bounded_list(self, hosts: list[str], port: int | None) -> None:
        self.assertLessEqual(len(dialable(hosts, port, on_loopback=False)), MAX_ADDRESSES)
