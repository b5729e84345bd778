"""Devices that put, delete, list and watch, over every store: all that they hear is true."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from abst.errors import Code
from abst.packets import (
    DeleteValue,
    Error,
    GetValue,
    ListValues,
    Packet,
    PutValue,
    ValueChanges,
    ValueDeleted,
    ValueFound,
    ValuePut,
    WatchingValues,
    WatchValues,
)
from abst.realm.counters import Counters
from abst.realm.limits import Limits
from abst.realm.store.memory import MemoryStore
from abst.realm.store.sqlite import SqliteStore
from abst.realm.values.values import Values
from tests.realm.values.model import Made, Model
from tests.realm.values.stage import GROUPS, NAMES, Device, Turns

LIMITS = Limits(
    group_values=5,
    group_bytes=120_000,
    group_changes=6,
    value_requests_per_second=10**6,
    waiting_value_requests=10**6,
)
MAX_NAMES = 40  # So that one group's index often has to make room for another's.

groups = st.sampled_from([bytes(group) for group in GROUPS])
names = st.sampled_from(NAMES)
who = st.integers(0, 1)
sizes = st.sampled_from([0, 30, 1500, 40_000])
times = st.sampled_from([None, None, None, 0, 3, 50])
revisions = st.sampled_from(["any", "any", "any", "none", "right", "wrong"])


def check_heard(heard: list[Packet], expected: list[Packet]) -> None:
    """See whether a device was told and answered the right things about a group, in order.

    Changes that are made together may be told together, and then earlier than each by itself.
    """
    changes, answers, heads = in_parts(heard)
    wanted_changes, wanted_answers, wanted_heads = in_parts(expected)
    assert changes == wanted_changes
    assert heads.items() <= wanted_heads.items()
    assert [answer for answer, _ in answers] == [answer for answer, _ in wanted_answers]
    for (answer, told), (_, wanted) in zip(answers, wanted_answers, strict=True):
        may_be_early = isinstance(answer, (ValuePut, ValueDeleted))
        assert told >= wanted if may_be_early else told == wanted, answer


def in_parts(
    packets: list[Packet],
) -> tuple[list[Any], list[tuple[Packet, int]], dict[int, bytes]]:
    """Return the changes told, the answers, with how many were told before, and the heads."""
    changes: list[Any] = []
    answers: list[tuple[Packet, int]] = []
    heads: dict[int, bytes] = {}
    for packet in packets:
        if isinstance(packet, ValueChanges):
            changes += packet.changes
            heads[packet.revision] = packet.head
        else:
            answers.append((packet, len(changes)))
    return changes, answers, heads


class ValuesMachine(RuleBasedStateMachine):
    """Every answer is the model's, and every watcher is told every change before its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.wall = 1_000_000.0
        self.count = 0
        # Requests that are going to come together, or None.
        self.together: list[Any] | None = None
        self.models = {bytes(group): Model(LIMITS) for group in GROUPS}
        self.open()

    def open(self) -> None:
        """Begin as a realm does: with nobody here."""
        self.store: Any = self.make_store()
        self.values = Values(self.store, LIMITS, Counters(), lambda: self.wall, MAX_NAMES)
        self.devices = [Device(b"alice"), Device(b"bob")]
        self.watchers: dict[bytes, list[int]] = defaultdict(list)
        # What each device shall hear about each group, in order.
        self.expected: dict[tuple[int, bytes], list[Packet]] = defaultdict(list)
        self.acknowledged = {group: model.revision for group, model in self.models.items()}

    def make_store(self) -> Any:
        return MemoryStore()

    def settle(self) -> None:
        """Wait for the answers to everything."""

    def handle(self, device: int, packet: Any) -> None:
        if self.together is None:
            self.values.handle(self.devices[device], packet, self.wall - 5000.0)
        else:
            self.together.append(packet)

    # What is expected.

    def made(self, group: bytes, changes: list[Made]) -> None:
        """Expect that watchers are told changes; those of one step in one packet."""
        if not changes:
            return
        newest = changes[-1]
        news: list[list[Any]] = [
            [change.revision, change.name, change.digest, change.sealed] for change in changes
        ]
        for device in self.watchers[group]:
            self.expected[device, group].append(
                ValueChanges(group, newest.revision, newest.head, news)
            )

    def expire(self, group: bytes) -> Model:
        model = self.models[group]
        self.made(group, model.expire(self.wall * 1000))
        return model

    def refusal(self, device: int, packet: Any, code: Code) -> None:
        self.expected[device, packet.peer_group].append(
            Error(str(code), "", packet.packet_id, peer_group=packet.peer_group)
        )

    def revision_of(self, model: Model, name: bytes, kind: str) -> int | None:
        last = model.last().get(name)
        revision = 0 if last is None else last.revision
        return {"any": None, "none": 0, "right": revision, "wrong": revision + 1}[kind]

    def is_refused(self, model: Model, name: bytes, wanted: int | None) -> bool:
        last = model.last().get(name)
        if wanted == 0:
            return last is not None and last.has_value
        return wanted is not None and (last is None or last.revision != wanted)

    # What devices do.

    @rule(device=who, group=groups, name=names, size=sizes, seconds=times, kind=revisions)
    def put(
        self, device: int, group: bytes, name: bytes, size: int, seconds: int | None, kind: str
    ) -> None:
        model = self.expire(group)
        wanted = self.revision_of(model, name, kind)
        self.count += 1
        sealed = b"%d:" % self.count + bytes(size)
        packet = PutValue(group, name, sealed, wanted, seconds)
        older = model.last().get(name)
        has_value = older is not None and older.has_value
        more = len(sealed) - (len(older.sealed or b"") if older and has_value else 0)
        values = sum(item.has_value for item in model.last().values())
        if self.is_refused(model, name, wanted):
            self.refusal(device, packet, Code.WRONG_REVISION)
        elif (not has_value and values >= LIMITS.group_values) or (
            more > 0 and model.value_bytes() + more > LIMITS.group_bytes
        ):
            self.refusal(device, packet, Code.VALUES_FULL)
        else:
            due = None if seconds is None else (self.wall + seconds) * 1000
            self.made(group, model.add((name, sealed, False, due)))
            self.expected[device, group].append(ValuePut(group, model.revision))
        self.handle(device, packet)

    @rule(
        device=who,
        some=st.lists(st.tuples(groups, names, sizes, revisions), min_size=3, max_size=8),
        group=groups,
    )
    def ask_together(
        self, device: int, some: list[tuple[bytes, bytes, int, str]], group: bytes
    ) -> None:
        """Put, get and delete in one group, as a rule, with everything in one read."""
        self.together = []
        for number, (other, name, size, kind) in enumerate(some):
            asked = other if number == 4 else group
            if number == 2:
                self.get(device, asked, name)
            elif number == 3:
                self.delete(device, asked, name, kind)
            else:
                self.put(device, asked, name, size, None, kind)
        together, self.together = self.together, None
        self.values.handle_all(self.devices[device], together, self.wall - 5000.0)

    @rule(device=who, group=groups, name=names, kind=revisions)
    def delete(self, device: int, group: bytes, name: bytes, kind: str) -> None:
        model = self.expire(group)
        wanted = self.revision_of(model, name, kind)
        packet = DeleteValue(group, name, b"deleted", wanted)
        last = model.last().get(name)
        if self.is_refused(model, name, wanted):
            self.refusal(device, packet, Code.WRONG_REVISION)
        elif last is None or not last.has_value:
            self.expected[device, group].append(ValueDeleted(group, 0))
        else:
            self.made(group, model.add((name, b"deleted", True, None)))
            self.expected[device, group].append(ValueDeleted(group, model.revision))
        self.handle(device, packet)

    @rule(device=who, group=groups, name=names)
    def get(self, device: int, group: bytes, name: bytes) -> None:
        last = self.expire(group).last().get(name)
        self.expected[device, group].append(
            ValueFound(group, name, 0)
            if last is None
            else ValueFound(group, name, last.revision, last.sealed)
        )
        self.handle(device, GetValue(group, name))

    @rule(device=who, group=groups)
    def watch(self, device: int, group: bytes) -> None:
        model = self.expire(group)
        if device not in self.watchers[group]:
            self.watchers[group].append(device)
        self.expected[device, group].append(WatchingValues(group, model.revision, model.head))
        self.handle(device, WatchValues(group))

    @rule(device=who, group=groups)
    def watch_no_more(self, device: int, group: bytes) -> None:
        model = self.expire(group)
        if device in self.watchers[group]:
            self.watchers[group].remove(device)
        self.expected[device, group].append(WatchingValues(group, model.revision, model.head))
        self.handle(device, WatchValues(group, stop=True))

    @rule(device=who, group=groups)
    def leave(self, device: int, group: bytes) -> None:
        self.hear()  # For who leaves before a watch was answered begins none.
        if device in self.watchers[group]:
            self.watchers[group].remove(device)
        self.values.leave(self.devices[device], group)

    @rule(device=who, group=groups, since=st.integers(0, 100))
    def list_pages(self, device: int, group: bytes, since: int) -> None:
        self.hear()
        model = self.expire(group)
        after = since * model.revision // 100
        kept = model.kept(after)
        last = model.last()
        while True:
            self.handle(device, ListValues(group, after))
            self.settle()
            page = self.devices[device].received.pop()
            assert isinstance(page, ValueChanges), page
            assert (page.revision, page.head) == (model.revision, model.head), page
            assert (page.floor, page.floor_head) == (model.floor, model.head_at(model.floor))
            count = len(page.changes)
            assert page.changes == [
                [
                    item.revision,
                    item.name,
                    item.digest,
                    item.sealed if last.get(item.name) is item else None,
                ]
                for item in kept[:count]
            ]
            kept = kept[count:]
            assert bool(page.more) == bool(kept)
            if not page.more:
                break
            assert count
            after = page.changes[-1][0]
        self.hear()

    # What else happens.

    @rule(seconds=st.sampled_from([0.5, 2.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.hear()
        self.wall += seconds
        for group, watchers in self.watchers.items():
            if watchers:
                self.expire(group)
        due = self.values.next_deadline()
        if due is not None and due <= self.wall - 5000.0:
            self.values.handle_deadline(self.wall - 5000.0)
        self.hear()
        # Groups that nobody watches are looked at when they are used, at the latest.
        for group in self.models:
            self.get(0, group, NAMES[0])

    @rule()
    def hear(self) -> None:
        """See whether everybody has heard what they should have."""
        self.settle()
        for number, device in enumerate(self.devices):
            heard: dict[bytes, list[Packet]] = defaultdict(list)
            for packet in device.take():
                group = packet.peer_group  # type: ignore[attr-defined]
                if isinstance(packet, Error):
                    packet = Error(packet.code, "", packet.about, peer_group=group)
                heard[group].append(packet)
            for group in self.models:
                check_heard(heard[group], self.expected.pop((number, group), []))
            assert not device.overtaking, device.overtaking
            assert device.closed_for is None
        self.acknowledged = {group: model.revision for group, model in self.models.items()}

    def teardown(self) -> None:
        self.hear()


class SqliteMachine(ValuesMachine):
    """The same over a file, which is opened again now and then, in order and otherwise."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        super().__init__()

    def make_store(self) -> SqliteStore:
        self.turns = Turns()
        return SqliteStore(self.turns, self.folder / "groups.db")

    def settle(self) -> None:
        answered: list[bool] = []
        # What is asked for last is answered last; a load asks for more when it is answered.
        for _ in range(3):
            answered.clear()
            self.store.follow(b"any", answered.append)
            self.turns.run_until(lambda: answered)
            assert answered == [True]

    def close(self) -> None:
        closed: list[object] = []
        self.store.close().addCallback(closed.append)
        self.turns.run_until(lambda: closed)

    @rule()
    def open_again(self) -> None:
        self.hear()
        self.close()
        self.open()

    @rule(calls=st.integers(1, 3))
    def turn(self, calls: int) -> None:
        """Let some of the answers come."""
        self.turns.run_some(calls)

    @rule()
    def kill(self) -> None:
        """What has been answered is there; of what has not been, any beginning may be."""
        for device in self.devices:
            for packet in device.received:
                if isinstance(packet, (ValuePut, ValueDeleted, ValueChanges)):
                    group = packet.peer_group
                    self.acknowledged[group] = max(self.acknowledged[group], packet.revision)
        acknowledged = self.acknowledged
        self.store._gathered.clear()
        self.close()
        self.open()
        for group in self.models:
            self.handle(0, ListValues(group, LIMITS.group_changes * 1000))
            self.settle()
            (page,) = self.devices[0].take()
            assert isinstance(page, ValueChanges)
            self.models[group] = self.what_is_left(group, acknowledged[group], page)
        self.acknowledged = {group: model.revision for group, model in self.models.items()}

    def what_is_left(self, group: bytes, least: int, page: ValueChanges) -> Model:
        changes = self.models[group].changes
        for revision in range(least, len(changes) + 1):
            model = Model(LIMITS, changes[:revision])
            model.expire(self.wall * 1000)
            if (model.revision, model.head) == (page.revision, page.head):
                return model
        raise AssertionError("an acknowledged change is gone")

    def teardown(self) -> None:
        super().teardown()
        self.close()
        shutil.rmtree(self.folder)


class StateMachineTests(SynchronousTestCase):
    def check(self, machine: type[ValuesMachine], examples: int) -> None:
        shape = settings(max_examples=examples, stateful_step_count=60, deadline=None)
        run_state_machine_as_test(machine, settings=shape)

    def test_in_memory(self) -> None:
        self.check(ValuesMachine, 12)

    def test_in_sqlite(self) -> None:
        self.check(SqliteMachine, 10)
