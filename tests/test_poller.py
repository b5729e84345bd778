"""Many descriptors behind one, over real sockets: who is called, when, and what errors may do."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

from twisted.internet.interfaces import IReactorFDSet
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from abst.poller import TURN_BYTES, TURN_SECONDS, Poller, descriptor_set, pace_of


@implementer(IReactorFDSet)
class Reactor:
    """Remembers which descriptors read."""

    def __init__(self) -> None:
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)

    def addWriter(self, writer: Any) -> None:
        raise AssertionError("nothing of a poller writes to the reactor")

    def removeWriter(self, writer: Any) -> None:
        raise AssertionError("nothing of a poller writes to the reactor")

    def removeAll(self) -> list[Any]:
        return self.readers

    def getReaders(self) -> list[Any]:
        return self.readers

    def getWriters(self) -> list[Any]:
        return []

    def callLater(self, *arguments: Any) -> Any:
        raise AssertionError("nobody asked for a timer")


class Descriptor:
    """One end of a connection, which notes what is called and may do something then."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls
        self.here, self.there = socket.socketpair()
        self.here.setblocking(False)
        self.when_read: Callable[[], object] = lambda: self.here.recv(100)
        self.when_written: Callable[[], object] = lambda: None
        self.when_lost: Callable[[], object] = lambda: None
        self.reason: Failure | None = None

    def fileno(self) -> int:
        return self.here.fileno()

    def doRead(self) -> None:
        self.calls.append(f"{self.name} read")
        self.when_read()

    def doWrite(self) -> None:
        self.calls.append(f"{self.name} write")
        self.when_written()

    def connectionLost(self, reason: Failure) -> None:
        self.calls.append(f"{self.name} lost")
        self.reason = reason
        self.when_lost()


class PollerTests(SynchronousTestCase):
    def setUp(self) -> None:
        if not hasattr(select, "epoll"):
            raise SkipTest("there is no epoll here")
        self.reactor = Reactor()
        self.calls: list[str] = []
        self.turns = 0
        self.poller = Poller(self.reactor, self.after_turn)
        self.one, self.two = Descriptor("one", self.calls), Descriptor("two", self.calls)
        for descriptor in (self.one, self.two):
            self.addCleanup(descriptor.here.close)
            self.addCleanup(descriptor.there.close)

    def after_turn(self) -> None:
        self.turns += 1

    def turn(self) -> list[str]:
        """Let the poller have its turn, as the reactor would; return what was called."""
        self.calls.clear()
        if self.reactor.readers:
            self.poller.doRead()
        return sorted(self.calls)

    def test_it_is_in_the_reactor_while_it_has_descriptors(self) -> None:
        self.assertEqual(-1, self.poller.fileno())
        self.poller.addReader(self.one)
        self.poller.addWriter(self.one)
        self.poller.addReader(self.two)
        self.assertEqual([self.poller], self.reactor.readers)
        self.assertGreaterEqual(self.poller.fileno(), 0)
        self.poller.removeReader(self.one)
        self.poller.removeReader(self.two)
        self.assertEqual([self.poller], self.reactor.readers)
        self.poller.removeWriter(self.one)
        self.assertEqual([], self.reactor.readers)
        self.assertEqual(-1, self.poller.fileno())
        self.poller.addReader(self.one)
        self.assertEqual([self.poller], self.reactor.readers)
        self.poller.removeReader(self.one)

    def test_who_is_ready_is_called_and_the_turn_ends_once(self) -> None:
        self.poller.addReader(self.one)
        self.poller.addReader(self.two)
        self.assertEqual([], self.turn())
        self.two.there.send(b"x")
        self.assertEqual(["two read"], self.turn())
        self.one.there.send(b"x")
        self.two.there.send(b"x")
        self.assertEqual(["one read", "two read"], self.turn())
        self.assertEqual(3, self.turns)

    def test_writers_are_called_while_they_can_write(self) -> None:
        self.poller.addWriter(self.one)
        self.one.there.send(b"x")
        self.assertEqual(["one write"], self.turn())
        self.poller.addReader(self.one)
        self.assertEqual(["one read", "one write"], self.turn())
        self.poller.removeWriter(self.one)
        self.assertEqual([], self.turn())

    def test_the_end_of_a_connection_is_read(self) -> None:
        self.poller.addReader(self.one)
        self.one.there.close()
        self.assertEqual(["one read"], self.turn())

    def test_who_only_writes_hears_of_the_end_too(self) -> None:
        self.poller.addWriter(self.one)
        self.one.there.close()
        self.assertEqual(["one read", "one write"], self.turn())

    def test_it_says_when_it_is_polling(self) -> None:
        seen: list[bool] = []
        self.one.when_read = lambda: seen.append(self.poller.polling)
        self.poller.addReader(self.one)
        self.one.there.send(b"x")
        self.turn()
        self.assertEqual([True], seen)
        self.assertFalse(self.poller.polling)

    def test_who_was_removed_in_this_turn_is_not_called(self) -> None:
        def remove(other: Descriptor) -> None:
            self.poller.removeReader(other)
            self.poller.removeWriter(other)

        self.one.when_read = lambda: remove(self.two)
        self.two.when_read = lambda: remove(self.one)
        for descriptor in (self.one, self.two):
            self.poller.addReader(descriptor)
            self.poller.addWriter(descriptor)
            descriptor.there.send(b"x")
        called = self.turn()
        self.assertEqual(1, len({name.split()[0] for name in called}), called)

    def test_who_was_removed_while_reading_does_not_write(self) -> None:
        def leave() -> None:
            self.poller.removeReader(self.one)
            self.poller.removeWriter(self.one)

        self.one.when_read = leave
        self.poller.addReader(self.one)
        self.poller.addWriter(self.one)
        self.one.there.send(b"x")
        self.assertEqual(["one read"], self.turn())
        self.assertEqual([], self.reactor.readers)

    def test_the_last_to_leave_in_a_turn_leaves_nothing_behind(self) -> None:
        self.one.when_read = lambda: self.poller.removeReader(self.one)
        self.poller.addReader(self.one)
        self.one.there.send(b"x")
        self.turn()
        self.assertEqual([], self.reactor.readers)
        self.assertEqual(-1, self.poller.fileno())

    def make_a_mistake(self) -> None:
        raise ZeroDivisionError("a mistake of ours")

    def test_an_error_ends_one_connection_and_no_other(self) -> None:
        self.one.when_read = self.make_a_mistake
        self.poller.addReader(self.one)
        self.poller.addReader(self.two)
        self.one.there.send(b"x")
        self.two.there.send(b"x")
        self.assertEqual(["one lost", "one read", "two read"], self.turn())
        self.assertEqual(1, self.turns)
        assert self.one.reason is not None
        self.assertIsInstance(self.one.reason.value, ZeroDivisionError)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.one.there.send(b"x")
        self.two.there.send(b"x")
        self.assertEqual(["two read"], self.turn())

    def test_an_error_in_writing_too(self) -> None:
        self.one.when_written = self.make_a_mistake
        self.poller.addWriter(self.one)
        self.assertEqual(["one lost", "one write"], self.turn())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual([], self.reactor.readers)

    def test_an_error_in_hearing_of_an_error(self) -> None:
        self.one.when_read = self.make_a_mistake
        self.one.when_lost = self.make_a_mistake
        self.poller.addReader(self.one)
        self.one.there.send(b"x")
        self.assertEqual(["one lost", "one read"], self.turn())
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual([], self.reactor.readers)

    def test_an_error_after_the_turn_does_not_end_the_poller(self) -> None:
        """The reactor would drop this one descriptor, and every connection would be deaf."""
        self.poller = Poller(self.reactor, self.make_a_mistake)
        self.poller.addReader(self.one)
        for _ in range(2):
            self.one.there.send(b"x")
            self.assertEqual(["one read"], self.turn())
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertFalse(self.poller.polling)

    def test_who_was_closed_before_can_be_removed(self) -> None:
        self.poller.addReader(self.one)
        self.poller.addReader(self.two)
        self.one.here.close()
        self.poller.removeReader(self.one)
        self.two.there.send(b"x")
        self.assertEqual(["two read"], self.turn())

    def test_a_number_that_is_given_out_again_is_another_descriptor(self) -> None:
        self.poller.addReader(self.one)
        self.poller.addWriter(self.one)
        number = self.one.here.fileno()
        self.one.here.close()
        again = Descriptor("again", self.calls)
        self.addCleanup(again.here.close)
        self.addCleanup(again.there.close)
        if again.here.fileno() != number:
            raise SkipTest("the system did not give the number out again")
        self.poller.addReader(again)
        again.there.send(b"x")
        self.assertEqual(["again read"], self.turn())

    def test_many_have_their_turn_one_after_the_other(self) -> None:
        descriptors = [Descriptor(str(number), self.calls) for number in range(300)]
        for descriptor in descriptors:
            self.addCleanup(descriptor.here.close)
            self.addCleanup(descriptor.there.close)
            self.poller.addReader(descriptor)
            descriptor.there.send(b"x")
        called = self.turn()
        self.assertLess(len(called), 300)
        self.assertEqual(300, len({*called, *self.turn()}))


class Reader(Descriptor):
    """A descriptor that says how much it has read."""

    def __init__(self, name: str, calls: list[str], read_bytes: int) -> None:
        super().__init__(name, calls)
        self.turn_bytes = read_bytes
        self.when_read = lambda: None
        self.there.send(b"x")


class BusyPollerTests(SynchronousTestCase):
    """What is done when more is there to be read than a turn has time for."""

    def setUp(self) -> None:
        if not hasattr(select, "epoll"):
            raise SkipTest("there is no epoll here")
        self.now = 1000.0
        self.calls: list[str] = []
        self.poller = Poller(Reactor(), lambda: None, lambda: self.now)

    def add(self, name: str, read_bytes: int) -> Reader:
        """Add a descriptor that is always ready."""
        reader = Reader(name, self.calls, read_bytes)
        self.addCleanup(reader.here.close)
        self.addCleanup(reader.there.close)
        self.poller.addReader(reader)
        return reader

    def turns(self, number: int) -> Counter[str]:
        """Return how often each was called in so many turns."""
        self.calls.clear()
        for _ in range(number):
            self.poller.doRead()
        return Counter(self.calls)

    def test_a_turn_ends_when_much_was_read(self) -> None:
        for number in range(10):
            self.add(f"greedy {number}", TURN_BYTES // 4)
        self.assertFalse(self.poller.is_busy)
        self.assertEqual(4, sum(self.turns(1).values()))
        self.assertTrue(self.poller.is_busy)

    def test_all_have_as_many_turns(self) -> None:
        for number in range(10):
            self.add(f"greedy {number}", TURN_BYTES // 4)
        called = self.turns(50)
        self.assertEqual(200, sum(called.values()))
        self.assertLessEqual(max(called.values()) - min(called.values()), 2)

    def test_turns_are_measured_in_bytes(self) -> None:
        for number in range(4):
            self.add(f"greedy {number}", TURN_BYTES // 4)
            self.add(f"half as greedy {number}", TURN_BYTES // 8)
        called = self.turns(100)
        for number in range(4):
            ratio = called[f"half as greedy {number} read"] / called[f"greedy {number} read"]
            self.assertAlmostEqual(2.0, ratio, places=0)

    def test_who_reads_little_is_called_in_each_turn(self) -> None:
        for number in range(50):
            self.add(f"greedy {number}", TURN_BYTES // 16)
        self.turns(10)
        self.add("light", 100)
        self.assertEqual(20, self.turns(20)["light read"])

    def test_a_turn_ends_when_it_takes_long(self) -> None:
        def work() -> None:
            self.now += TURN_SECONDS / 2

        for number in range(10):
            self.add(f"slow {number}", 0).when_read = work
        self.assertEqual(2, sum(self.turns(1).values()))

    def test_it_is_not_busy_any_more_when_a_turn_is_enough(self) -> None:
        greedy = [self.add(f"greedy {number}", TURN_BYTES // 2) for number in range(4)]
        self.turns(3)
        for reader in greedy[1:]:
            self.poller.removeReader(reader)
        self.turns(1)
        self.assertFalse(self.poller.is_busy)
        self.assertEqual(0, len(self.poller._shares))

    def test_another_set_of_descriptors_is_never_busy(self) -> None:
        self.assertIs(self.poller, pace_of(self.poller))
        self.assertFalse(pace_of(Reactor()).is_busy)


class DescriptorSetTests(SynchronousTestCase):
    def test_a_reactor_of_descriptors_gets_a_poller(self) -> None:
        if not hasattr(select, "epoll"):
            raise SkipTest("there is no epoll here")
        found = descriptor_set(Reactor(), lambda: None)
        self.assertIsInstance(found, Poller)

    def test_another_reactor_is_used_itself(self) -> None:
        reactor = object()
        self.assertIs(reactor, descriptor_set(reactor, lambda: None))
