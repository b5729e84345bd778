"""The headers of proxies: both versions, however they are cut, and nothing that is none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.proxy_header import PEEK_BYTES, BadHeaderError, ProxyHeader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def binary(command: int, kind: int, body: bytes) -> bytes:
    """Return a header of version 2."""
    return SIGNATURE + bytes([command, kind]) + len(body).to_bytes(2, "big") + body


IPV4 = bytes([192, 0, 2, 9, 198, 51, 100, 1]) + b"\x30\x39\x01\xbb"
IPV6 = bytes.fromhex("20010db8" + 22 * "0" + "09") + bytes(15) + b"\x01" + b"\x30\x39\x01\xbb"
GOOD = {
    b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 443\r\n": ("192.0.2.9", 12345),
    b"PROXY TCP6 2001:db8::9 ::1 12345 443\r\n": ("2001:db8::9", 12345),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": None,
    binary(0x21, 0x11, IPV4): ("192.0.2.9", 12345),
    binary(0x21, 0x11, IPV4 + b"\x03\x00\x04abcd"): ("192.0.2.9", 12345),
    binary(0x21, 0x21, IPV6): ("2001:db8::9", 12345),
    binary(0x20, 0x00, b""): None,
}
BAD = [
    b"\x16\x03\x01\x02\x00",
    b"GET / HTTP/1.1\r\n",
    b"\x82\xa9packet_id",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 12345\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 99999\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 -1 443\r\n",
    b"PROXY TCP4 2001:db8::9 ::1 12345 443\r\n",
    b"PROXY TCP4 192.0.2.999 198.51.100.1 12345 443\r\n",
    b"PROXY TCP5 192.0.2.9 198.51.100.1 12345 443\r\n",
    b"PROXY \r\n",
    b"PROXY \xff\r\n",
    b"PROXY TCP4 " + b"1" * 100 + b"\r\n",
    binary(0x21, 0x12, IPV4),  # UDP
    binary(0x21, 0x31, bytes(216)),  # a Unix socket
    binary(0x21, 0x11, IPV4[:-1]),
    binary(0x22, 0x11, IPV4),
    binary(0x31, 0x11, IPV4),
    binary(0x21, 0x11, IPV4 + bytes(PEEK_BYTES)),
    SIGNATURE[:-1] + b"!",
]


class ProxyHeaderTests(SynchronousTestCase):
    def test_it_says_who_it_is_and_takes_nothing_that_follows(self) -> None:
        for data, source in GOOD.items():
            header = ProxyHeader()
            self.assertEqual((len(data), True), header.feed(data + b"\x16\x03\x01"))
            self.assertEqual(source, header.source)

    def test_however_it_is_cut(self) -> None:
        for data, source in GOOD.items():
            header = ProxyHeader()
            for byte in data[:-1]:
                self.assertEqual((1, False), header.feed(bytes([byte])))
            self.assertIsNone(header.source)
            self.assertEqual((1, True), header.feed(data[-1:] + b"rest"))
            self.assertEqual(source, header.source)

    def test_what_is_none_is_refused(self) -> None:
        for data in BAD:
            with self.assertRaises(BadHeaderError, msg=data):
                _, is_whole = ProxyHeader().feed(data)
                self.assertFalse(is_whole, data)

    @given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]), st.binary(max_size=300))
    def test_any_bytes_are_a_header_or_none(self, begin: bytes, data: bytes) -> None:
        header = ProxyHeader()
        try:
            count, is_whole = header.feed(begin + data)
        except BadHeaderError:
            return
        self.assertLessEqual(count, PEEK_BYTES)
        self.assertTrue(is_whole or count == len(begin + data))

    def test_what_never_ends_is_bounded(self) -> None:
        for begin in (b"PROXY ", SIGNATURE + b"\x21\x11\x03\xe0"):
            header = ProxyHeader()
            with self.assertRaises(BadHeaderError):
                for data in [begin, *[b"1"] * (PEEK_BYTES + 1)]:
                    _, is_whole = header.feed(data)
                    if is_whole:
                        raise BadHeaderError
