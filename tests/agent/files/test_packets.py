"""Bytes cut into the packets of files: any split is good, any bytes are an error at worst."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.files.packets import (
    ALIVE,
    BYTES,
    DROP,
    ENTRY_END,
    FROM_RECEIVER,
    FROM_SENDER,
    ITEM_END,
    MAX_PACKET_BYTES,
    WELCOME,
    Splitter,
    encode,
)
from abst.errors import Code, RemoteProtocolError

packets = st.one_of(
    st.just((encode(ALIVE), b"")),
    st.builds(
        lambda sha256: (encode(ENTRY_END, sha256=sha256), b""), st.binary(min_size=32, max_size=32)
    ),
    st.builds(
        lambda data: (encode(BYTES, length=len(data)), data), st.binary(min_size=1, max_size=500)
    ),
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return bytes in pieces of these sizes, and the rest."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


class SplitterTests(SynchronousTestCase):
    def read(self, chunks: list[bytes]) -> list[Any]:
        """Return packets as maps, with the raw bytes between them joined."""
        splitter = Splitter(FROM_SENDER)
        found: list[Any] = []
        for chunk in chunks:
            for piece in splitter.receive_data(chunk):
                if isinstance(piece, tuple):
                    self.assertEqual(piece[1], encode(piece[0].pop("packet_id"), **piece[0]))
                    found.append(piece[1])
                elif found and isinstance(found[-1], bytearray):
                    found[-1] += piece
                else:
                    found.append(bytearray(piece))
        return found

    @given(st.lists(packets, max_size=20), st.lists(st.integers(0, 100), max_size=60))
    def test_any_split_gives_the_same(
        self, parts: list[tuple[bytes, bytes]], sizes: list[int]
    ) -> None:
        whole = b"".join(packet + raw for packet, raw in parts)
        expected: list[Any] = []
        for packet, raw in parts:
            if not raw:
                expected.append(packet)
            elif expected and isinstance(expected[-1], bytearray):
                expected[-1] += raw
            else:
                expected.append(bytearray(raw))
        self.assertEqual(expected, self.read(cut(whole, sizes)))

    @given(st.lists(st.binary(max_size=300), max_size=10))
    def test_any_bytes_give_packets_or_an_error(self, chunks: list[bytes]) -> None:
        splitter = Splitter(FROM_RECEIVER)
        with contextlib.suppress(RemoteProtocolError):
            for chunk in chunks:
                list(splitter.receive_data(chunk))

    def test_what_no_packet_may_be(self) -> None:
        for data, code in (
            (b"\xc1", Code.MALFORMED),
            (encode(99), Code.UNKNOWN_PACKET),
            (encode(WELCOME, unfinished=[]), Code.UNKNOWN_PACKET),
            (encode(True), Code.UNKNOWN_PACKET),
            (encode(ITEM_END), Code.MALFORMED),
            (encode(BYTES, length=0), Code.MALFORMED),
            (encode(BYTES, length=2**20 + 1), Code.MALFORMED),
            (encode(DROP, transfer=bytes(16), reason="x" * MAX_PACKET_BYTES), Code.TOO_LARGE),
            (b"\xdf\xff\xff\xff\xff", Code.TOO_LARGE),
        ):
            error = self.assertRaises(RemoteProtocolError, self.read, [data])
            self.assertEqual(code, error.code, data[:20])

    def test_an_unfinished_packet_takes_no_more_memory_than_a_whole_one(self) -> None:
        splitter = Splitter(FROM_SENDER)
        promise = encode(DROP, transfer=bytes(16), reason="")[:-1] + b"\xda\xff\xff"
        self.assertRaises(RemoteProtocolError, list, splitter.receive_data(promise))
