"""Devices that come, send, stop reading, read and go in any order: no packet is unaccounted for."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.device_id import DeviceID
from abst.errors import Code
from abst.packets import Error, Hello, Send
from abst.realm.conversation import State
from abst.realm.limits import Limits
from abst.realm.outbox import NEWCOMERS_SHARE
from tests.realm.memory_realm import Line, MemoryRealm, decode, send

LIMITS = Limits(
    packet_bytes=4096,
    queue_bytes=32768,
    all_queues_bytes=49152,
    heartbeat_seconds=4,
    silence_seconds=20,
    stall_seconds=5,
    connections=6,
)
MOST_BYTES = LIMITS.queue_bytes + LIMITS.queue_bytes // NEWCOMERS_SHARE
"""What may wait for one device when several have sent it."""
DEVICES = [DeviceID.of_key(b"device %d" % number) for number in range(4)]
DROPS = (Code.TARGET_ABSENT, Code.QUEUE_FULL, Code.UNDELIVERED)
NUMBER_BYTES = 4
STREAMS = [b"\xc1", b"\x81\xa9packet_id\x63", codec.encode(Hello(DEVICES[0]))]

devices = st.sampled_from(range(len(DEVICES)))


class RealmMachine(RuleBasedStateMachine):
    """What holds whatever happens.

    The bytes that wait are counted exactly and within their bounds. In the end every packet was
    written to its target, once and in order, or its sender was told that it was not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.realm = MemoryRealm(LIMITS)
        self.newest: dict[int, Line] = {}
        self.closed: list[Line] = []
        self.all_lines: list[Line] = []
        self.senders: list[Line] = []  # By the number that stands in the packet.

    @initialize()
    def begin(self) -> None:
        for device in range(len(DEVICES)):
            self.connect(device)

    @rule(
        source=devices,
        to=devices,
        count=st.integers(1, 8),
        size=st.sampled_from([10, 200, 2000, 2000]),
        times=st.integers(1, 3),
        request=st.none() | st.none() | st.integers(0, 9),
    )
    def send(
        self, source: int, to: int, count: int, size: int, times: int, request: int | None
    ) -> None:
        line = self.newest[source]
        for _ in range(times):
            if line.conversation.state is not State.HERE:
                return
            run = b""
            for _ in range(count):
                number = len(self.senders).to_bytes(NUMBER_BYTES, "big")
                run += send(DEVICES[source], DEVICES[to], number + bytes(size), request)
                self.senders.append(line)
            line.send(run)

    @rule(device=devices)
    def stop_reading(self, device: int) -> None:
        self.newest[device].stop_reading()

    @rule(device=devices)
    def read(self, device: int) -> None:
        if not self.newest[device].ended:
            self.newest[device].read()

    @rule(device=devices, what=st.sampled_from([*STREAMS, "connect", "disconnect"]))
    def do_something_else(self, device: int, what: bytes | str) -> None:
        match what:
            case bytes():
                self.newest[device].send(what)
            case "connect":
                self.connect(device)
            case "disconnect":
                self.newest[device].disconnect()
                self.connect(device)

    @rule()
    def disconnect_who_was_closed(self) -> None:
        for line in self.closed:
            line.disconnect()
        self.closed.clear()
        for device, line in self.newest.items():
            if line.ended:
                line.disconnect()
                self.connect(device)

    @rule(
        seconds=st.sampled_from([0.1, 1.0, 3.0, 6.0]),
        say_hello=st.sampled_from([True, True, False]),
    )
    def let_time_go_by(self, seconds: float, say_hello: bool) -> None:
        if say_hello:
            for line in self.newest.values():
                line.conversation.heard_at = self.realm.now
        self.realm.advance(seconds)

    def connect(self, device: int) -> None:
        line = self.realm.connect(DEVICES[device])
        line.send(Hello(DEVICES[device]))
        self.all_lines.append(line)
        if line.ended:
            assert line.conversation.closed_for is Code.REALM_FULL
            self.closed.append(line)
        older = self.newest.get(device)
        if older is None or not line.ended:
            self.newest[device] = line
            if older is not None:
                assert older.conversation.state is State.CLOSED
                self.closed.append(older)

    @invariant()
    def what_waits_is_counted_and_bounded(self) -> None:
        core = self.realm.core
        waiting = 0
        for conversation in core.conversations:
            queued_bytes = conversation._outbox.data_bytes
            assert 0 <= queued_bytes <= MOST_BYTES
            assert not queued_bytes or conversation.state is State.HERE
            waiting += queued_bytes
        assert core.queued_bytes == waiting <= LIMITS.all_queues_bytes
        assert not core.touched

    @invariant()
    def who_is_here_is_found_and_nobody_else(self) -> None:
        for device, line in self.newest.items():
            is_here = line.conversation.state is State.HERE
            found = self.realm.switchboard.route(DEVICES[device])
            assert found is (line.conversation if is_here else None)
        assert len(self.realm.switchboard) == self.realm.core.here <= len(self.newest)

    def teardown(self) -> None:
        here = [line for line in self.newest.values() if line.conversation.state is State.HERE]
        for line in here:
            line.read()
        written: Counter[Line] = Counter()
        told: Counter[Line] = Counter()
        seen: set[int] = set()
        for line in self.all_lines:
            last: dict[bytes, int] = {}
            for packet in decode(line.received + line.waiting):
                if isinstance(packet, Send):
                    number = int.from_bytes(packet.content[:NUMBER_BYTES], "big")
                    assert packet.target_device == line.device_id
                    assert packet.source_device == self.senders[number].device_id
                    assert number not in seen
                    assert last.get(packet.source_device, -1) < number
                    last[packet.source_device] = number
                    seen.add(number)
                    written[self.senders[number]] += 1
                elif isinstance(packet, Error) and packet.code in DROPS:
                    assert packet.dropped
                    told[line] += packet.dropped
        sent = Counter(self.senders)
        for line in here:
            if line.conversation.state is State.HERE:
                assert sent[line] == written[line] + told[line]
        for line in [*self.newest.values(), *self.closed]:
            line.disconnect()
        assert self.realm.core.queued_bytes == 0
        assert not self.realm.core.conversations
        assert not len(self.realm.switchboard)
        self.realm.advance(LIMITS.hello_seconds + LIMITS.silence_seconds)
        assert self.realm.core.next_deadline() is None


class StateMachineTests(SynchronousTestCase):
    def test_whatever_devices_do_no_packet_is_unaccounted_for(self) -> None:
        run_state_machine_as_test(
            RealmMachine, settings=settings(max_examples=40, stateful_step_count=60)
        )
