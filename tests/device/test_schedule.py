"""Two devices under any schedule of sending, cutting, dropping, killing and waiting."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from abst.device import Device, PeerBook
from abst.errors import (
    Code,
    LocalProtocolError,
)
from abst.testing import MemoryNetwork, MemoryRealm
from tests.device.doubles import HIGHER, LOWER, Notes, NotesFactory, turn


class ScheduleTests(SynchronousTestCase):
    """Whatever happens in whatever order, each session delivers once and in order."""

    steps = st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 8)),
            st.tuples(st.just("cut"), st.integers(0, 1), st.integers(0, 1)),
            st.tuples(st.just("realm"), st.integers(0, 1), st.booleans()),
            st.tuples(st.just("drop"), st.integers(0, 1), st.integers(1, 4), st.booleans()),
            st.tuples(st.just("turn"), st.integers(1, 12)),
            st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.06, 1.0, 5.0, 40.0])),
            st.tuples(st.just("restart"), st.integers(0, 1)),
            st.tuples(st.just("connect"), st.integers(0, 1)),
            st.tuples(st.just("lose"), st.integers(0, 1)),
        ),
        max_size=30,
    )

    @settings(max_examples=50)
    @given(steps=steps, seed=st.integers(0, 2**16))
    def test_every_schedule(self, steps: list[tuple[Any, ...]], seed: int) -> None:
        Schedule(seed).run(steps)


class Schedule:
    """Two devices, and what each session of each has sent, received and had acknowledged."""

    def __init__(self, seed: int) -> None:
        self.network = MemoryNetwork(seed)
        self.realms = [self.network.realm, self.network.add_realm()]
        self.identities = (LOWER, HIGHER)
        self.to_drop = {bytes(who.device_id): 0 for who in self.identities}
        self.says_so = True
        for realm in self.realms:
            self.intercept(realm)
        self.devices = [self.make_device(side, None) for side in (0, 1)]
        self.network.introduce(*self.devices)
        self.books = [device.peers for device in self.devices]
        # What each session's protocol has sent, and what was acknowledged.
        self.sent: dict[Notes, list[Any]] = {}
        self.acknowledged: dict[Notes, list[Any]] = {}
        # A device's life is the time from its start to its end; each has a factory of its own.
        self.lives: list[NotesFactory] = [self.factory(side) for side in (0, 1)]
        self.waiting: list[Deferred[Any]] = []
        self.number = 0
        self.network.settle()

    def make_device(self, side: int, peers: PeerBook | None) -> Device:
        return self.network.device(
            str(side), NotesFactory(), identity=self.identities[side], peers=peers
        )

    def run(self, steps: list[tuple[Any, ...]]) -> None:
        self.connect(0)
        for kind, *arguments in steps:
            getattr(self, kind)(*arguments)
        self.heal()
        self.network.advance(200, 1.0)
        for waiting in self.waiting:
            assert waiting.called
        self.check()
        self.the_last_session_works()
        for device in self.devices:
            device.stopService()
        self.network.settle()
        assert not self.network.clock.getDelayedCalls()

    def heal(self) -> None:
        """Let everything work from now on."""
        for number in (0, 1):
            self.realm(number, True)
        self.to_drop.clear()

    def session(self, side: int) -> Notes | None:
        protocol = self.devices[side].session_with(self.identities[1 - side].device_id)
        assert protocol is None or isinstance(protocol, Notes)
        return protocol

    def send(self, side: int, count: int) -> None:
        protocol = self.session(side)
        if protocol is None:
            return
        for _ in range(count):
            self.number += 1
            content = [self.number, bytes(self.number % 7 * 9000)]
            try:
                acknowledged = protocol.sendPacket(5, content)
            except LocalProtocolError:
                return
            self.sent.setdefault(protocol, []).append(content)
            done = self.acknowledged.setdefault(protocol, [])
            acknowledged.addCallbacks(
                lambda result, content=content, done=done: done.append(content),
                lambda failure: None,
            )
            self.waiting.append(acknowledged)

    def cut(self, side: int, number: int) -> None:
        link: Any = self.devices[side].links[self.realms[number].address]
        link.cut()

    def realm(self, number: int, on: bool) -> None:
        if on:
            self.realms[number].start()
        else:
            self.realms[number].stop()

    def intercept(self, realm: MemoryRealm) -> None:
        """Stand where packets are routed, to drop some of them."""
        switchboard: Any = realm.realm.switchboard
        route = switchboard.route
        switchboard.route = lambda target: self if self.to_drop.get(target) else route(target)

    def deliver(self, run: bytes, count: int, source: Any) -> Code | None:
        target = next(target for target in self.to_drop if target in run[50:90])
        self.to_drop[target] -= 1
        return Code.QUEUE_FULL if self.says_so else None

    def drop(self, side: int, count: int, says_so: bool) -> None:
        """Drop the next packets for a side; a bad realm does not say so."""
        self.to_drop[bytes(self.identities[side].device_id)] = count
        self.says_so = says_so

    def turn(self, count: int) -> None:
        turn(self.network, count)

    def wait(self, seconds: float) -> None:
        self.network.settle()
        self.network.advance(seconds)

    def restart(self, side: int) -> None:
        self.network.kill(self.devices[side])
        self.devices[side] = self.make_device(side, self.books[side])
        self.lives.append(self.factory(side))

    def factory(self, side: int) -> NotesFactory:
        factory = self.devices[side].factory
        assert isinstance(factory, NotesFactory)
        return factory

    def connect(self, side: int) -> None:
        waiting = self.devices[side].connect(self.identities[1 - side].device_id)
        waiting.addErrback(lambda failure: None)
        self.waiting.append(waiting)

    def lose(self, side: int) -> None:
        protocol = self.session(side)
        if protocol is not None:
            protocol.loseConnection()

    def check(self) -> None:
        """Compare what each protocol has sent with what all the others have received."""
        sender = {content[0]: protocol for protocol, sent in self.sent.items() for content in sent}
        handled = dict.fromkeys(self.sent, 0)
        for life in self.lives:
            spoken_to: set[Notes] = set()
            for notes in life.built:
                senders = {sender[content[0]] for content in notes.contents}
                assert len(senders) <= 1, "a session joins two protocols"
                for protocol in senders:
                    assert protocol not in spoken_to, "once, whatever became of the session"
                    spoken_to.add(protocol)
                    count = len(notes.contents)
                    assert notes.contents == self.sent[protocol][:count], "once and in order"
                    handled[protocol] = max(handled[protocol], count)
        for protocol, acknowledged in self.acknowledged.items():
            assert acknowledged == self.sent[protocol][: len(acknowledged)]
            assert len(acknowledged) <= handled[protocol], "what is acknowledged did arrive"

    def the_last_session_works(self) -> None:
        """Nothing is stuck: both can still reach each other, in one and the same session."""
        ends = []
        for side in (0, 1):
            waiting = self.devices[side].connect(self.identities[1 - side].device_id)
            self.network.advance(30)
            ends.append(self.network.result(waiting))
        sent = ends[0].sendPacket(5, "the end")
        self.network.advance(1)
        self.network.result(sent)
        assert isinstance(ends[1], Notes)
        assert ends[1].contents[-1] == "the end"
