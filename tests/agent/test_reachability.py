"""How long a command waits for a peer, and what it says when there is no way."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from service_identity.exceptions import VerificationError
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from abst.address import RealmAddress
from abst.agent.reachability import LOOK_SECONDS, Reachability
from abst.device import Device, DeviceFactory, Path
from abst.device.connect_problem import connect_problem
from abst.errors import AbstError, Code, PeerUnreachableError, WrongKeyError, explain
from abst.identity import Identity
from abst.packets import FIRST_APPLICATION_ID
from abst.realm.limits import Limits
from abst.testing import MemoryNetwork

REALM = RealmAddress("realm.example", 4000)
TLS_FAILED = SSL.Error([("SSL routines", "", "wrong version number")])
NOT_VALID = SSL.Error([("SSL routines", "", "certificate verify failed")])

LASTING = (
    str(WrongKeyError("the realm", "AAAA", "BBBB")),
    connect_problem(Failure(TLS_FAILED), REALM),
    connect_problem(Failure(NOT_VALID), REALM),
    connect_problem(Failure(VerificationError(errors=[])), REALM),
    explain(Code.WRONG_VERSION, "this realm speaks 2"),
    explain(Code.REALM_FULL),
    *map(explain, (Code.NOT_INVITED, Code.WRONG_INVITATION, Code.NOT_LISTED, Code.REVOKED)),
)
PASSING = (
    "not connected yet",
    None,
    connect_problem(Failure(ConnectionRefusedError()), REALM),
    connect_problem(Failure(TimeoutError()), REALM),
    connect_problem(Failure(DNSLookupError()), REALM),
    explain(Code.RESTARTING),
    explain(Code.REPLACED),
    explain(Code.SILENT),
)


class DownLink:
    """A link that is down."""

    def __init__(self, address: RealmAddress, problem: str | None) -> None:
        self.path = Path("realm", address)
        self.is_up = False
        self.max_content_bytes = 0
        self.problem = problem

    def start(self) -> None:
        """Begin to connect."""

    def stop(self) -> Deferred[Any]:
        """Connect no more."""
        return succeed(None)


class RealmsDownTests(SynchronousTestCase):
    """No realm is connected."""

    def connect(self, *problems: str | None) -> Deferred[Any]:
        """Wait for a peer, with a realm for each problem."""
        self.clock = Clock()
        found = iter(problems)
        self.device = Device(
            self.clock,
            Identity.generate(),
            DeviceFactory(),
            realms=[RealmAddress("realm.example", port) for port in range(1, 1 + len(problems))],
            make_link=lambda *arguments: DownLink(arguments[2], next(found)),  # type: ignore[arg-type]
        )
        self.device.startService()
        self.addCleanup(self.device.stopService)
        self.peer = self.device.trust(Identity.generate().device_id, "bob")
        return ensureDeferred(Reachability(self.device).connect(self.peer))

    def test_what_lasts_is_told_at_once(self) -> None:
        for problem in LASTING:
            connected = self.connect(problem)
            self.assertNoResult(connected)
            self.clock.advance(LOOK_SECONDS)
            error = self.failureResultOf(connected, PeerUnreachableError).value
            self.assertEqual(problem, str(error))

    def test_what_may_pass_is_waited_for(self) -> None:
        for problem in PASSING:
            connected = self.connect(problem)
            for _ in range(9):
                self.clock.advance(1)
            self.assertNoResult(connected)
            self.clock.pump([1] * 3)
            self.failureResultOf(connected, PeerUnreachableError)

    def test_one_realm_that_may_come_is_waited_for(self) -> None:
        connected = self.connect(LASTING[0], PASSING[0])
        self.clock.advance(LOOK_SECONDS)
        self.assertNoResult(connected)
        (_, link) = self.device.links.values()
        link.problem = LASTING[1]
        self.clock.advance(LOOK_SECONDS)
        error = self.failureResultOf(connected, PeerUnreachableError).value
        self.assertEqual(f"{LASTING[0]}; {LASTING[1]}", str(error))

    def test_why_a_message_waits(self) -> None:
        self.failureResultOf(self.connect(), PeerUnreachableError)
        why = Reachability(self.device).why_away(self.peer)
        self.assertIn("no realm ('abst realm add", why)
        connected = self.connect(LASTING[0])
        why = Reachability(self.device).why_away(self.peer)
        self.assertEqual(f"this device is not connected to a realm ({LASTING[0]})", why)
        self.clock.pump([1] * 3)
        self.failureResultOf(connected, PeerUnreachableError)

    def test_nobody_is_told_twice(self) -> None:
        connected = self.connect(LASTING[0])
        self.clock.advance(LOOK_SECONDS)
        self.failureResultOf(connected, PeerUnreachableError)
        self.clock.pump([1] * 60)
        self.assertEqual([], self.flushLoggedErrors())


class PeerAwayTests(SynchronousTestCase):
    """The realm is there, and the peer is not, or not the right one."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.alice = self.network.device("alice", DeviceFactory())
        self.bob = self.network.device("bob", DeviceFactory())
        self.peer = self.alice.trust(self.bob.device_id, "bob")

    def problem(self) -> str:
        """Return why Alice does not reach Bob, and make sure that a person can read it."""
        connected = ensureDeferred(Reachability(self.alice).connect(self.peer))
        self.network.advance(30)
        text = str(self.failureResultOf(connected, AbstError).value)
        for code in Code:
            self.assertNotIn(f"{code}:", text)
        return text

    def test_a_peer_that_is_off(self) -> None:
        self.network.kill(self.bob)
        self.network.settle()
        self.assertIn("bob is not connected to a realm that this device uses", self.problem())
        self.assertEqual("bob is away", Reachability(self.alice).why_away(self.peer))

    def test_a_peer_to_whom_no_more_may_be_sent_this_month(self) -> None:
        self.bob.trust(self.alice.device_id, "alice")
        reach = Reachability(self.alice)
        self.network.realm.realm.use_limits(Limits(device_bytes_per_month=10))
        self.alice.open(self.bob.device_id).sendPacket(FIRST_APPLICATION_ID, "it waits")
        spent = explain(Code.VOLUME_SPENT)
        self.assertIn(spent, self.problem())
        self.assertEqual(f"bob cannot be reached ({spent})", reach.why_away(self.peer))
        self.network.realm.realm.use_limits(Limits())
        self.network.advance(60)
        self.assertIsNotNone(self.alice.path_to(self.bob.device_id))
        self.network.kill(self.bob)
        self.network.advance(30)
        self.assertEqual("bob is away", reach.why_away(self.peer))

    def test_a_peer_that_goes_away_before_it_answers(self) -> None:
        reach = Reachability(self.alice)
        for sentence in (explain(Code.TARGET_ABSENT), explain(Code.UNDELIVERED)):
            waiting: Deferred[float] = Deferred()
            answered = ensureDeferred(reach.in_time(waiting, self.peer))
            waiting.errback(PeerUnreachableError(f"bob: {sentence}"))
            text = str(self.failureResultOf(answered, PeerUnreachableError).value)
            self.assertTrue(text.startswith("bob is not connected to a realm"), text)

    def test_a_peer_that_was_made_anew(self) -> None:
        self.bob.trust(self.alice.device_id, "alice")
        self.alice.peers.met(self.bob.device_id, Identity.generate().public_key, "bob")
        text = self.problem()
        self.assertIn("bob has another key", text)
        self.assertIn("'abst forget' it and pair again", text)
