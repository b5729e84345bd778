"""The lab's networks do what they say, and nothing of them stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.lab.lab import LabTestCase
from tests.lab.network import (
    PREFIX,
    ROOT,
    Interface,
    Lan,
    Network,
    namespaces,
    remove_leftovers,
)

GROUP = "224.0.0.251"
ECHO = """
import socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("", 7))
group = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
echo.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
print("ready", flush=True)
while True:
    data, sender = echo.recvfrom(2000)
    echo.sendto(sender[0].encode(), sender)
"""
CALL = """
import socket, sys
call = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
call.settimeout(0.4)
call.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
call.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
for _ in range(int(sys.argv[3])):
    call.sendto(b"hello", (sys.argv[2], 7))
    try:
        print(call.recv(2000).decode())
    except TimeoutError:
        pass
"""
LEFT = """
import time
from tests.lab.network import Network
network = Network()
print("ready", flush=True)
time.sleep(100)
"""


def python(code: str, *arguments: str) -> list[str]:
    """Return the command line of a small program."""
    return [sys.executable, "-c", code, *arguments]


class NetworkTests(LabTestCase):
    """Hosts that call each other."""

    def setUp(self) -> None:
        super().setUp()
        self.network = Network()
        self.addCleanup(self.network.close)

    def lan(self, name: str, *, multicast: bool = True) -> Lan:
        return Lan(self.network, name, ["192.168.1.0/24"], multicast=multicast)

    def host(self, name: str, lan: Lan) -> Interface:
        """Make a host that answers everybody with the address that it sees."""
        host = self.network.namespace(name)
        interface = Interface(self.network, host)
        interface.join(lan)
        echo = subprocess.Popen(
            host.command(*python(ECHO, str(interface.addresses[0].ip))),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(echo.communicate)
        self.addCleanup(echo.kill)
        assert echo.stdout is not None
        self.assertEqual("ready\n", echo.stdout.readline())
        return interface

    def call(self, caller: Interface, target: Interface | str, times: int = 1) -> list[str]:
        """Return as whom a host is seen by another one, for each call that was answered."""
        own = str(caller.addresses[0].ip)
        where = target if isinstance(target, str) else str(target.addresses[0].ip)
        done = subprocess.run(
            caller.host.command(*python(CALL, own, where, str(times))),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout.split()

    def test_lan(self) -> None:
        home = self.lan("home")
        laptop, phone = self.host("laptop", home), self.host("phone", home)
        self.assertEqual(["192.168.1.1"], self.call(laptop, phone))
        home.silence()
        self.assertEqual([], self.call(laptop, phone))
        home.silence(False)
        phone.silence()
        self.assertEqual([], self.call(laptop, phone))
        phone.silence(False)
        phone.down()
        self.assertEqual([], self.call(laptop, phone))
        phone.up()
        self.assertEqual(["192.168.1.1"], self.call(laptop, phone))

    def test_loss_and_delay(self) -> None:
        home = self.lan("home")
        laptop, phone = self.host("laptop", home), self.host("phone", home)
        self.assertEqual(1, len(self.call(laptop, phone)), "they know each other's MAC addresses")
        home.netem(delay_ms=100)
        began = time.monotonic()
        self.assertEqual(2, len(self.call(laptop, phone, 2)))
        self.assertGreaterEqual(time.monotonic() - began, 0.4)
        home.netem(loss=50)
        self.assertTrue(0 < len(self.call(laptop, phone, 20)) < 20)

    def test_nat(self) -> None:
        home, cafe = self.lan("home"), self.lan("cafe")
        internet = Lan(self.network, "internet", ["203.0.113.0/24"], multicast=False)
        laptop, phone = self.host("laptop", home), self.host("phone", cafe)
        server = self.host("server", internet)
        router = home.nat_to(internet)
        cafe.nat_to(internet)
        seen = [str(router.outside.addresses[0].ip)]
        self.assertEqual(seen, self.call(laptop, server))
        self.assertEqual([], self.call(server, laptop))
        self.assertEqual(["192.168.1.1"], self.call(laptop, phone), "its own address")
        laptop.join(cafe)
        self.assertEqual([str(laptop.addresses[0].ip)], self.call(laptop, phone))
        router.silence()
        self.assertNotEqual(seen, self.call(laptop, server))
        laptop.join(home)
        self.assertEqual([], self.call(laptop, server))

    def test_isolation(self) -> None:
        home = self.lan("home")
        laptop, phone = self.host("laptop", home), self.host("phone", home)
        internet = Lan(self.network, "internet", ["203.0.113.0/24"], multicast=False)
        server = self.host("server", internet)
        home.nat_to(internet)
        home.isolate()
        self.assertEqual([], self.call(laptop, phone))
        self.assertEqual(1, len(self.call(laptop, server)))

    def test_multicast(self) -> None:
        for name, multicast in (("home", True), ("office", False)):
            lan = self.lan(name, multicast=multicast)
            one, other = self.host(f"{name}-one", lan), self.host(f"{name}-other", lan)
            self.assertEqual(1, len(self.call(one, other)))
            self.assertEqual(int(multicast), len(self.call(one, GROUP)), name)


class LeftoverTests(LabTestCase):
    """A lab whose process was killed."""

    def test_removed_by_the_next_one(self) -> None:
        left = subprocess.Popen(
            python(LEFT), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(left.communicate)
        assert left.stdout is not None
        self.assertEqual("ready\n", left.stdout.readline())
        mine = f"{PREFIX}-{left.pid}-"
        remove_leftovers()
        self.assertTrue([name for name in namespaces() if name.startswith(mine)])
        os.kill(left.pid, signal.SIGKILL)
        left.wait()
        remove_leftovers()
        self.assertEqual([], [name for name in namespaces() if name.startswith(mine)])
