"""A program's side of the gate, over a transport in memory."""

from __future__ import annotations

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.streams.gate_client import AskingForStream
from abst.agent.streams.gate_lines import Accept, Answer, answer_line
from abst.agent.streams.local_stream import END
from abst.device_id import DeviceID
from tests.agent.streams.test_local_stream import frame
from tests.device.streams.doubles import Built, HalfNotes


class Reluctant(HalfNotes):
    """Takes nothing until it says so."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.pauseProducing()


class AskingForStreamTests(SynchronousTestCase):
    def test_what_comes_with_the_answer_waits_for_who_has_paused(self) -> None:
        built = Built(Reluctant)
        asking = AskingForStream(Accept(1), built)
        asking.makeConnection(StringTransport())
        own_id, device_id = (DeviceID.of_key(bytes([number] * 32)) for number in (1, 2))
        answer = answer_line(Answer(own_id, device_id, "web"))
        asking.dataReceived(answer + frame(b"early") + END)
        self.assertEqual("web", self.successResultOf(asking.answered).service)
        (notes,) = built.built
        self.assertEqual((b"", []), (bytes(notes.heard), notes.halves))
        notes.transport.resumeProducing()
        self.assertEqual((b"early", ["read"]), (bytes(notes.heard), notes.halves))
