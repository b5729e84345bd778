"""What agents put into messages to a group."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.groups.packets import read_text, text_message
from abst.agent.packets import MAX_MESSAGE_CHARACTERS
from abst.codec import encode
from abst.errors import AbstError
from abst.packets import Application


class GroupPacketTests(SynchronousTestCase):
    @given(st.text(max_size=100))
    def test_any_text_comes_back(self, text: str) -> None:
        self.assertEqual(text, read_text(text_message(text)))

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_text_or_nothing(self, content: bytes) -> None:
        self.assertIsInstance(read_text(content), str | None)

    def test_the_bytes_are_those_of_the_specification(self) -> None:
        expected = b"\x82\xa9packet_id\x10\xa7content\x81\xa4text\xa2hi"
        self.assertEqual(expected, text_message("hi"))

    def test_a_text_that_is_too_long(self) -> None:
        longest = "x" * MAX_MESSAGE_CHARACTERS
        self.assertEqual(longest, read_text(text_message(longest)))
        self.assertRaises(AbstError, text_message, longest + "x")
        self.assertIsNone(read_text(encode(Application(16, {"text": longest + "x"}))))

    def test_other_packets_mean_nothing(self) -> None:
        for packet_id, content in ((17, {"text": "x"}), (16, {}), (16, "x"), (24, {})):
            self.assertIsNone(read_text(encode(Application(packet_id, content))))
