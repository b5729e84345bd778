"""A stream's ends, in any order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.device import DeviceFactory
from abst.device.streams.stream import LINGER_SECONDS
from abst.testing import MemoryNetwork
from tests.device.streams.doubles import BIG, Built, HalfNotes


class Ends:
    """Both ends of a stream in memory.

    Attributes:
        notes: the protocols, by name.
        said: what each has written while it could.
    """

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        lan = self.network.lan()
        self.alice = self.network.device("alice", DeviceFactory(), lan=lan.port())
        self.bob = self.network.device("bob", DeviceFactory(), lan=lan.port())
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        offered = Built(HalfNotes)
        self.bob.streams.listen("notes", offered)
        opened = self.alice.streams.connect(self.bob.device_id, "notes", Built(HalfNotes))
        self.network.settle()
        near: HalfNotes = self.network.result(opened)  # type: ignore[assignment]
        self.notes = {"near": near, "far": offered.built[0]}
        self.said = {"near": bytearray(), "far": bytearray()}

    def step(self, who: str, what: str, size: int) -> None:
        """Do something at one end."""
        transport = self.notes[who].transport
        if what == "write":
            before = transport.sent_bytes
            transport.write(BIG[:size])
            if transport.sent_bytes > before:
                self.said[who] += BIG[:size]
        elif what == "pass":
            self.network.settle()
        else:
            getattr(transport, what)()

    def finish(self) -> None:
        """Let everything come, and close what is open."""
        for end in self.notes.values():
            end.transport.resumeProducing()
        self.network.settle()
        for end in self.notes.values():
            end.transport.loseConnection()
        self.network.advance(LINGER_SECONDS + 1)


DOINGS = ("loseWriteConnection", "loseConnection", "abortConnection")
STEPS = ("write", "write", "pass", "pauseProducing", "resumeProducing", *DOINGS)


class AnyOrderTests(SynchronousTestCase):
    """In whatever order the ends go, both are told the truth."""

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("near", "far")), st.sampled_from(STEPS), st.integers(0, 70000)
            ),
            max_size=20,
        )
    )
    @settings(max_examples=50, deadline=None)
    def test_any_order(self, steps: list[tuple[str, str, int]]) -> None:
        ends = Ends()
        for step in steps:
            ends.step(*step)
        ends.finish()
        for who, other in (("near", "far"), ("far", "near")):
            end = ends.notes[who]
            self.assertIsNotNone(end.ended)
            # What came is always the beginning of what was said ...
            self.assertTrue(ends.said[other].startswith(end.heard))
            # ... and whoever was told of the end has had everything.
            if "read" in end.halves:
                self.assertEqual(ends.said[other], end.heard)
        self.assertEqual([], ends.alice.streams.open_streams() + ends.bob.streams.open_streams())

    def test_what_is_only_written_arrives_whole(self) -> None:
        ends = Ends()
        for size in (1, 16383, 16384, 16385, 70000):
            ends.step("near", "write", size)
        ends.step("near", "loseConnection", 0)
        ends.network.settle()
        self.assertEqual(ends.said["near"], ends.notes["far"].heard)
