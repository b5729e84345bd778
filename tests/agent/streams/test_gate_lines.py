"""The lines at the gate: what one side writes the other one reads, and nothing else is believed."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.streams.gate_lines import (
    MAX_ADMITTED_PEERS,
    MAX_LINE_BYTES,
    MAX_PEER_CHARACTERS,
    Accept,
    Answer,
    Arrival,
    Connect,
    Listen,
    Request,
    answer_line,
    arrival_line,
    check_offered,
    error_line,
    parse_answer,
    parse_arrival,
    parse_request,
    request_line,
)
from abst.device_id import DeviceID
from abst.errors import AbstError

ALICE: Final = DeviceID.of_key(b"alice")
BOB: Final = DeviceID.of_key(b"bob")

SERVICES: Final = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z").filter(
    lambda name: not name.startswith("abst.")
)
PEERS: Final = st.text(max_size=MAX_PEER_CHARACTERS)
REQUESTS: Final = st.one_of(
    st.builds(Connect, PEERS, SERVICES),
    st.builds(Listen, SERVICES, st.lists(PEERS, max_size=5).map(tuple)),
    st.builds(Accept, st.integers(0, 2**60)),
)


class LinesTests(SynchronousTestCase):
    @given(REQUESTS)
    def test_requests(self, request: Request) -> None:
        line = request_line(request)
        self.assertEqual((request, 1), (parse_request(line), line.count(b"\n")))

    def test_the_largest_request_fits(self) -> None:
        names = ("x" * MAX_PEER_CHARACTERS,) * MAX_ADMITTED_PEERS
        self.assertLess(len(request_line(Listen("x" * 64, names))), MAX_LINE_BYTES)

    def test_answers(self) -> None:
        answer = Answer(ALICE, BOB, "web")
        self.assertEqual(answer, parse_answer(answer_line(answer)))
        error = self.assertRaises(AbstError, parse_answer, error_line("no, ü"))
        self.assertEqual("no, ü", str(error))

    def test_arrivals(self) -> None:
        arrival = Arrival(7, BOB)
        self.assertEqual(arrival, parse_arrival(arrival_line(arrival)))

    @given(st.binary(max_size=100))
    def test_any_line_is_understood_or_refused(self, line: bytes) -> None:
        for parse in (parse_request, parse_answer, parse_arrival):
            try:
                parse(line)
            except AbstError as error:
                self.assertNotIn("\n", str(error))

    def test_what_is_no_answer(self) -> None:
        for line in (
            b'{"ok": {}}',
            b'{"ok": {"own_id": "x", "device_id": "y", "service": "web"}}',
            b'{"stream": {"id": "1", "device_id": "x"}}',
            b"[" * 100_000,
        ):
            for parse in (parse_answer, parse_arrival):
                error = self.assertRaises(AbstError, parse, line)
                self.assertIn("not understood", str(error))

    def test_names_that_are_abst_s_own(self) -> None:
        for name in ("abst.", "abst.files", "abst.x"):
            self.assertRaises(AbstError, check_offered, name)
        for name in ("abst", "abstract", "my.abst.files", "Abst.x"):
            self.assertEqual(name, check_offered(name))
