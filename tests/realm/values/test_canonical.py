"""Reading puts and gets at a glance says the same as decoding them, or nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.errors import RemoteProtocolError
from abst.packets import (
    DEVICE_TO_REALM,
    MAX_SEALED_VALUE_BYTES,
    MAX_VALUE_PACKET_BYTES,
    GetValue,
    Packet,
    PutValue,
    parse,
)
from abst.realm.values.canonical import read_request
from tests.realm.values.stage import GROUPS, NAMES

GROUP = bytes(GROUPS[0])
counts = st.one_of(st.none(), st.integers(0, 2**63 - 1), st.sampled_from([0, 127, 128, 255, 65536]))
lengths = st.sampled_from([0, 1, 255, 256, 65535, 65536, MAX_SEALED_VALUE_BYTES])
packets = st.one_of(
    st.builds(GetValue, st.just(GROUP), st.just(NAMES[0]), counts),
    st.builds(
        lambda length, *rest: PutValue(GROUP, NAMES[1], bytes(length), *rest),
        lengths,
        st.sampled_from([None, 7]),
        st.sampled_from([None, 9]),
        counts,
    ),
)


def decoded(data: bytes) -> Packet | None:
    """Return the packet that bytes are, as it is found in any form; None when they are none."""
    try:
        return parse(codec.decode(data), DEVICE_TO_REALM)
    except RemoteProtocolError:
        return None


class CanonicalTests(SynchronousTestCase):
    def test_what_is_sent_as_a_rule_is_read(self) -> None:
        for packet in (GetValue(GROUP, NAMES[0], 5), PutValue(GROUP, NAMES[0], b"x", request=300)):
            data: Any = codec.encode(packet)
            found = read_request(b"before" + data + b"after", 6)
            self.assertEqual((packet, 6 + len(data)), found)

    @settings(max_examples=60, deadline=None)
    @given(packets, st.integers(0, 10**6), st.integers(0, 255))
    def test_it_is_what_the_codec_says_or_nothing(self, packet: Any, place: int, byte: int) -> None:
        data = codec.encode(packet, MAX_VALUE_PACKET_BYTES)
        found = read_request(data, 0)
        self.assertIn(found, ((None, 0), (packet, len(data))))
        # One byte is another one, most often one of those that say what follows.
        spoilt = bytearray(data)
        spoilt[place % min(len(data), 160)] = byte
        again, end = read_request(bytes(spoilt), 0)
        if again is not None:
            self.assertEqual(decoded(bytes(spoilt[:end])), again)
        # A beginning is no packet.
        self.assertEqual((None, 0), read_request(data[: place % len(data)], 0))

    def test_what_is_over_a_limit_is_left_to_the_codec(self) -> None:
        put = PutValue(GROUP, NAMES[0], bytes(65536), request=2**40)
        head = codec.encode(put, MAX_VALUE_PACKET_BYTES)[:-65536]
        too_long = head[:-4] + (MAX_SEALED_VALUE_BYTES + 1).to_bytes(4, "big")
        self.assertEqual((None, 0), read_request(too_long + bytes(MAX_SEALED_VALUE_BYTES + 1), 0))
        get = codec.encode(GetValue(GROUP, NAMES[0], 2**63 - 1))
        self.assertEqual((None, 0), read_request(get.replace(b"\xcf\x7f", b"\xcf\xff"), 0))
        self.assertEqual((None, 0), read_request(get.replace(GROUP, bytes(16)), 0))
