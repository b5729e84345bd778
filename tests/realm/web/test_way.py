"""How a realm reaches its own port."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.gate import address_of
from abst.realm.web.way import OWN_WORD, Way, find_way

Address = IPv4Address | IPv6Address | UNIXAddress


class Port:
    """A port that listens somewhere."""

    def __init__(self, address: Address) -> None:
        self.getHost = lambda: address


EVERYWHERE = Port(IPv6Address("TCP", "::", 42278))
IPV4 = Port(IPv4Address("TCP", "0.0.0.0", 42279))
ONE = Port(IPv4Address("TCP", "192.0.2.1", 42280))
SOCKET = Port(UNIXAddress(b"/run/realm"))


class WayTests(SynchronousTestCase):
    def find(self, *listen: tuple[str, Port], proxies: tuple[str, ...] = ()) -> Way | None:
        return find_way(
            [description for description, _ in listen],
            [port for _, port in listen],
            {address_of(host) for host in proxies},
        )

    def test_a_port_bound_to_everything_is_reached_by_loopback(self) -> None:
        self.assertEqual(Way("::1", 42278), self.find(("tcp6:42278", EVERYWHERE)))
        self.assertEqual(Way("127.0.0.1", 42279), self.find(("tcp:42279", IPV4)))
        self.assertEqual(Way("192.0.2.1", 42280), self.find(("tcp:42280", ONE)))

    def test_what_is_no_tcp_port_is_passed_over(self) -> None:
        self.assertEqual(Way("127.0.0.1", 42279), self.find(("unix:/r", SOCKET), ("tcp:1", IPV4)))
        self.assertIsNone(self.find(("unix:/r", SOCKET)))
        self.assertIsNone(self.find())

    def test_where_proxies_are_believed_it_speaks_as_one(self) -> None:
        for description in ("tcp:42279", "haproxy:tcp:42279"):
            found = self.find((description, IPV4), proxies=("127.0.0.1",))
            self.assertEqual(Way("127.0.0.1", 42279, OWN_WORD), found)

    def test_a_port_for_other_machines_proxies_alone_is_none_for_it(self) -> None:
        proxied = ("haproxy:tcp:42279", IPV4)
        self.assertIsNone(self.find(proxied, proxies=("192.0.2.9",)))
        found = self.find(proxied, ("tcp:42280", ONE), proxies=("192.0.2.9",))
        self.assertEqual(Way("192.0.2.1", 42280), found)
