"""Who is here: the newest connection of each device, until it leaves."""

from twisted.trial.unittest import SynchronousTestCase

from abst.errors import Code
from abst.packets import Packet
from abst.realm.switchboard import MemorySwitchboard, Sender
from tests.realm.memory_realm import ALICE, BOB


class Connection:
    """A connection that does nothing."""

    def deliver(self, run: bytes, count: int, source: Sender) -> Code | None:
        return None

    def tell(self, packet: Packet) -> None:
        pass

    def replaced(self, now: float) -> list[float]:
        return []


class MemorySwitchboardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.switchboard = MemorySwitchboard()
        self.one, self.two = Connection(), Connection()

    def test_who_is_not_here_has_no_route(self) -> None:
        self.assertIsNone(self.switchboard.route(ALICE))
        self.assertEqual(0, len(self.switchboard))

    def test_who_arrives_has_one(self) -> None:
        self.assertIsNone(self.switchboard.arrive(ALICE, self.one))
        self.assertIsNone(self.switchboard.arrive(BOB, self.two))
        self.assertIs(self.one, self.switchboard.route(ALICE))
        self.assertIs(self.two, self.switchboard.route(bytes(BOB)))
        self.assertEqual(2, len(self.switchboard))

    def test_the_newer_connection_takes_the_place_of_the_older(self) -> None:
        self.switchboard.arrive(ALICE, self.one)
        self.assertIs(self.one, self.switchboard.arrive(ALICE, self.two))
        self.assertIs(self.two, self.switchboard.route(ALICE))
        self.assertEqual(1, len(self.switchboard))

    def test_who_arrives_again_is_its_own_older(self) -> None:
        self.switchboard.arrive(ALICE, self.one)
        self.assertIs(self.one, self.switchboard.arrive(ALICE, self.one))

    def test_who_leaves_is_gone(self) -> None:
        self.switchboard.arrive(ALICE, self.one)
        self.switchboard.leave(ALICE, self.one)
        self.assertIsNone(self.switchboard.route(ALICE))
        self.switchboard.leave(ALICE, self.one)

    def test_the_older_does_not_take_the_newer_with_it(self) -> None:
        self.switchboard.arrive(ALICE, self.one)
        self.switchboard.arrive(ALICE, self.two)
        self.switchboard.leave(ALICE, self.one)
        self.assertIs(self.two, self.switchboard.route(ALICE))
