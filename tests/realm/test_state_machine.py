"""Devices that come, send, stop reading, read and go in any order: no packet is unaccounted for."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from abst.device_id import DeviceID
from abst.errors import Code
from abst.packets import Error, Hello, Send
from abst.realm.conversation import State
from abst.realm.limits import Limits
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
DEVICES = [DeviceID.of_key(b"device %d" % number) for number in range(5)]
DROPS = (Code.TARGET_ABSENT, Code.QUEUE_FULL, Code.UNDELIVERED)
NUMBER_BYTES = 4

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
        self.replaced: list[Line] = []
        self.all_lines: list[Line] = []
        self.senders: list[Line] = []  # By the number that stands in the packet.

    @rule(device=devices)
    def connect(self, device: int) -> None:
        line = self.realm.connect(DEVICES[device])
        line.send(Hello(DEVICES[device]))
        older = self.newest.get(device)
        if line.ended:
            self.replaced.append(line)  # The realm was full.
            assert line.conversation.closed_for is Code.REALM_FULL
            return
        if older is not None:
            assert older.conversation.state is State.CLOSED
            self.replaced.append(older)
        self.newest[device] = line
        self.all_lines.append(line)

    @rule(
        source=devices,
        to=devices,
        count=st.integers(1, 8),
        size=st.sampled_from([10, 200, 2000]),
        request=st.none() | st.integers(0, 9),
    )
    def send(self, source: int, to: int, count: int, size: int, request: int | None) -> None:
        line = self.newest.get(source)
        if line is None or line.conversation.state is not State.HERE:
            return
        run = b""
        for _ in range(count):
            number = len(self.senders).to_bytes(NUMBER_BYTES, "big")
            run += send(DEVICES[source], DEVICES[to], number + bytes(size), request)
            self.senders.append(line)
        line.send(run)

    @rule(source=devices, what=st.sampled_from([b"\xc1", b"\x81\xa9packet_id\x63", b"\x84"]))
    def send_something_else(self, source: int, what: bytes) -> None:
        line = self.newest.get(source)
        if line is not None and not line.ended:
            line.send(what, b"\xc1" if what == b"\x84" else b"")

    @rule(device=devices)
    def stop_reading(self, device: int) -> None:
        if device in self.newest:
            self.newest[device].stop_reading()

    @rule(device=devices)
    def read(self, device: int) -> None:
        if device in self.newest and not self.newest[device].ended:
            self.newest[device].read()

    @rule(device=devices)
    def disconnect(self, device: int) -> None:
        line = self.newest.pop(device, None)
        if line is not None:
            line.disconnect()

    @precondition(lambda self: self.replaced)
    @rule()
    def disconnect_a_replaced_one(self) -> None:
        self.replaced.pop(0).disconnect()

    @rule(seconds=st.sampled_from([0.1, 3.0, 6.0, 25.0]))
    def let_time_go_by(self, seconds: float) -> None:
        self.realm.advance(seconds)

    @invariant()
    def what_waits_is_counted_and_bounded(self) -> None:
        core = self.realm.core
        waiting = 0
        for conversation in core.conversations:
            queued_bytes = conversation._outbox.data_bytes
            assert 0 <= queued_bytes <= LIMITS.queue_bytes
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
        assert len(self.realm.switchboard) <= len(self.newest)

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
        for line in [*self.newest.values(), *self.replaced]:
            line.disconnect()
        assert self.realm.core.queued_bytes == 0
        assert not self.realm.core.conversations
        assert not len(self.realm.switchboard)
        self.realm.advance(LIMITS.hello_seconds + LIMITS.silence_seconds)
        assert self.realm.core.next_deadline() is None


class StateMachineTests(SynchronousTestCase):
    def test_whatever_devices_do_no_packet_is_unaccounted_for(self) -> None:
        run_state_machine_as_test(
            RealmMachine, settings=settings(max_examples=150, stateful_step_count=60)
        )
