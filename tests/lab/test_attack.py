"""Strangers in another network attack a realm, from one address and from hundreds.

``tests.load.test_attack`` has what they do and what must hold; here each side has a network
namespace of its own, joined to the realm's by a pair of veth interfaces.
"""

from __future__ import annotations

import os
import shutil

from tests.integration.command_line import temporary_folder
from tests.lab.lab import LabTestCase
from tests.lab.network import Namespace
from tests.load.people import addresses
from tests.load.siege import Blow, Camp, Siege
from tests.load.test_attack import ALL_AT_ONCE, SiegeTestCase

SECONDS = float(os.environ.get("ABST_ATTACK_SECONDS") or 0)
"""How long each attack goes on in ``make soak``, which also compares times with those of quiet."""

BRIEF_SECONDS = 4.0
"""How long in ``make lab``: too short for the hundredth that takes longest."""

BRIEF = (
    Blow(("touch",), each_second=300.0),
    Blow(("be_silent",)),
    Blow(("stop_in_the_middle",)),
    Blow(("guess_an_invitation",)),
    ALL_AT_ONCE,
)
STRANGERS = 500
NETWORKS = {"home": "10.42", "strangers": "10.66"}


def join(one: Namespace, other: Namespace, network: str, names: tuple[str, str]) -> None:
    """Make a wire between two hosts, the first of which has the last address of a /16."""
    one.ip("link", "add", names[0], "type", "veth", "peer", "name", names[1], "netns", other.name)
    for host, name in ((one, names[0]), (other, names[1])):
        host.ip("link", "set", name, "up")
    one.ip("addr", "add", f"{network}.255.254/16", "dev", names[0])


class AttackTests(LabTestCase, SiegeTestCase):
    """A realm between the network of its devices and the one of strangers."""

    def setUp(self) -> None:
        super().setUp()
        self.hosts: dict[str, Namespace] = {}
        for name in ("realm", "home", "strangers"):
            self.hosts[name] = Namespace(name)
            self.addCleanup(self.hosts[name].remove)
        for name, network in NETWORKS.items():
            join(self.hosts["realm"], self.hosts[name], network, (f"to-{name}", "eth0"))

    def camp(self, name: str, count: int) -> Camp:
        """Give a host addresses."""
        host, network = self.hosts[name], NETWORKS[name]
        found = addresses(count, network)
        for address in found:
            host.ip("addr", "add", f"{address}/16", "dev", "eth0")
        return Camp(host.command(), found, host=f"{network}.255.254")

    def withstand_from(self, strangers: int, blows: list[Blow]) -> None:
        """Have so many strangers attack."""
        folder = temporary_folder()
        self.addCleanup(shutil.rmtree, folder)
        realm = Camp(self.hosts["realm"].command(), host="0.0.0.0")
        with Siege(folder, realm, self.camp("home", 1), self.camp("strangers", strangers)) as siege:
            self.withstand(siege, blows, SECONDS or BRIEF_SECONDS, compares=SECONDS > 0)

    def test_from_one_address(self) -> None:
        self.withstand_from(1, list(BRIEF))

    def test_from_many_addresses(self) -> None:
        self.withstand_from(STRANGERS, list(BRIEF))
