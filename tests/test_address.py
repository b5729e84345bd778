"""Realm addresses: what is read, what is written, what is refused and why."""

import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.address import (
    DEFAULT_PORT,
    RealmAddress,
    format_host_port,
    format_pin,
    parse_host_port,
    pin_of_key,
)
from abst.errors import AddressError

PIN = bytes(range(32))
PIN_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
INVITATION = "oKGio6SlpqeoqaqrrK2urw"

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
names = (
    st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: name[1:3] != "--")
)
hosts = names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
pins = st.none() | st.binary(min_size=32, max_size=32)


class ReadingTests(TestCase):
    def test_the_whole_form(self) -> None:
        found = RealmAddress.parse(f"abst://realm.example.org:4711/?pin={PIN_TEXT}")
        self.assertEqual(RealmAddress("realm.example.org", 4711, PIN), found)

    def test_short_forms(self) -> None:
        host = RealmAddress("realm.example.org", DEFAULT_PORT)
        for text in (
            "abst://realm.example.org",
            "abst://realm.example.org/",
            "abst://realm.example.org:",
        ):
            self.assertEqual(host, RealmAddress.parse(text))
        pinned = RealmAddress("realm.example.org", DEFAULT_PORT, PIN)
        self.assertEqual(pinned, RealmAddress.parse(f"abst://realm.example.org?pin={PIN_TEXT}"))

    def test_the_port_is_42278(self) -> None:
        self.assertEqual(42278, RealmAddress.parse("abst://a").port)

    def test_ip_addresses(self) -> None:
        for text, host in (
            ("abst://192.0.2.1", "192.0.2.1"),
            ("abst://[2001:db8::1]", "2001:db8::1"),
            ("abst://[2001:DB8:0:0::1]:42278/", "2001:db8::1"),
            ("abst://[fe80::1%eth0]", "fe80::1%eth0"),
        ):
            self.assertEqual(RealmAddress(host), RealmAddress.parse(text))

    def test_names_are_compared_in_one_form(self) -> None:
        """Capital letters and letters beyond ASCII have one form on the wire and in a file."""
        self.assertEqual(RealmAddress("a.example"), RealmAddress.parse("ABST://A.Example/"))
        umlaut = RealmAddress.parse("abst://m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen.example")
        self.assertEqual("xn--mnchen-3ya.example", umlaut.host)

    def test_blanks_around_it_do_not_matter(self) -> None:
        self.assertEqual(RealmAddress("a"), RealmAddress.parse("  abst://a/\n"))

    @given(host=hosts, port=st.integers(1, 65535), pin=pins)
    def test_what_is_written_is_read_back(self, host: str, port: int, pin: bytes | None) -> None:
        address = RealmAddress.parse(str(RealmAddress(host, port, pin)))
        self.assertEqual((port, pin), (address.port, address.pin))
        self.assertEqual(address, RealmAddress.parse(str(address)))
        self.assertEqual(str(address), str(RealmAddress.parse(str(address))))

    def test_writing(self) -> None:
        self.assertEqual("abst://a:42278/", str(RealmAddress("a")))
        self.assertEqual(f"abst://[::1]:5/?pin={PIN_TEXT}", str(RealmAddress("::1", 5, PIN)))


class RefusalTests(TestCase):
    def assert_refused(self, text: str, reason: str) -> None:
        error = self.assertRaises(AddressError, RealmAddress.parse, text)
        self.assertIn(reason, str(error))

    def test_other_texts_are_no_realms_address(self) -> None:
        for text in (
            "",
            "a",
            "a:42278",
            "//a",
            "https://a/",
            "abst:a",
            "abst:///",
            "abst://",
            "abst://:1",
        ):
            self.assert_refused(text, "it begins with abst://HOST")

    def test_more_than_an_address(self) -> None:
        for text in ("abst://a/b", "abst://a//", "abst://a/#b", "abst://u@a/", "abst://u:p@a/"):
            self.assert_refused(text, "has more than")

    def test_unknown_parts_are_not_ignored(self) -> None:
        """A part that says how to check the realm must not be dropped by who does not know it."""
        for text in ("abst://a/?pim=x", "abst://a/?x", f"abst://a/?pin={PIN_TEXT}&key=1"):
            self.assert_refused(text, "not known here")

    def test_two_pins(self) -> None:
        self.assert_refused(f"abst://a/?pin={PIN_TEXT}&pin={PIN_TEXT}", "two pins")
        other = format_pin(bytes(32))
        self.assert_refused(f"abst://a/?pin={PIN_TEXT}&pin={other}", "two pins")

    def test_ports(self) -> None:
        self.assert_refused("abst://a:0", "port 0")
        for port in ("65536", "-1", "x", "1.5", "\N{FULLWIDTH DIGIT ONE}", "99999999999"):
            self.assert_refused(f"abst://a:{port}/", "abst://a")
        self.assertEqual(65535, RealmAddress.parse("abst://a:65535").port)

    def test_hosts(self) -> None:
        for host in (
            "a..b",
            ".a",
            "-a",
            "a-",
            "%41",
            "a%00",
            "a\\b",
            "a|b",
            "a" * 64,
            "a." * 127 + "a",
        ):
            self.assert_refused(f"abst://{host}/", "no host name and no IP address")
        for host in ("[::g]", "[1.2.3.4]", "[::1", "::1]"):
            self.assertRaises(AddressError, RealmAddress.parse, f"abst://{host}/")

    def test_an_address_that_was_copied_with_a_line_break(self) -> None:
        """Python drops line breaks and tabs from URLs: another host would be read."""
        for text in (
            "abst://a\nb/",
            "abst://a\tb/",
            "abst://a b/",
            "abst://a\0b/",
            "abst://a\u200bb/",
        ):
            self.assert_refused(text, "has a blank in it")

    def test_pins(self) -> None:
        wrong = [
            *("", "x", PIN_TEXT[:-1], PIN_TEXT + "A", PIN_TEXT + "=", PIN_TEXT[:-1] + "9"),
            *(
                PIN_TEXT[:-1] + "%2B",
                "!" + PIN_TEXT,
                PIN_TEXT[:-1] + "\N{LATIN SMALL LETTER E WITH ACUTE}",
            ),
            PIN.hex(),
        ]
        for pin in wrong:
            self.assert_refused(f"abst://a/?pin={pin}", "43 letters of base64url")

    def test_a_pin_has_one_form(self) -> None:
        """Plus and slash are the letters of another base64; two texts would be one pin."""
        odd = format_pin(b"\xfb" * 32)
        self.assertIn("-", odd)
        self.assertEqual(b"\xfb" * 32, RealmAddress.parse(f"abst://a/?pin={odd}").pin)
        self.assert_refused(f"abst://a/?pin={odd.replace('-', '%2B')}", "base64url")

    def test_long_texts_are_not_read(self) -> None:
        self.assert_refused("abst://" + "a" * 500, "much shorter")
        self.assert_refused("abst://a/?pin=" + "A" * 10_000_000, "much shorter")

    @given(
        text=st.text() | st.text().map("abst://{}".format) | st.text().map("abst://a/?{}".format)
    )
    def test_any_text_is_an_address_or_an_address_error(self, text: str) -> None:
        try:
            address = RealmAddress.parse(text)
        except AddressError:
            return
        self.assertEqual(address, RealmAddress.parse(str(address)))


class InvitationTests(TestCase):
    """An address may carry the secret that lets a new device in."""

    LINK = f"abst://realm.example.org:4711/?pin={PIN_TEXT}&invitation={INVITATION}"

    def assert_refused(self, text: str, reason: str) -> None:
        error = self.assertRaises(AddressError, RealmAddress.parse, text)
        self.assertIn(reason, str(error))
        self.assertNotIn(INVITATION[:8].lower(), str(error).lower())

    def test_a_link_is_read_and_written(self) -> None:
        address = RealmAddress.parse(self.LINK)
        self.assertEqual(INVITATION, address.invitation)
        self.assertEqual(PIN, address.pin)
        self.assertEqual(self.LINK, address.link)
        plain = RealmAddress.parse(f"abst://a/?invitation={INVITATION}")
        self.assertEqual(f"abst://a:42278/?invitation={INVITATION}", plain.link)
        self.assertEqual("abst://a:42278/", RealmAddress("a").link)

    @given(
        host=hosts, port=st.integers(1, 65535), pin=pins, token=st.binary(min_size=16, max_size=16)
    )
    def test_what_is_written_is_read_back(
        self, host: str, port: int, pin: bytes | None, token: bytes
    ) -> None:
        text = base64.urlsafe_b64encode(token).rstrip(b"=").decode()
        link = RealmAddress(host, port, pin, text).link
        self.assertEqual(text, RealmAddress.parse(link).invitation)
        self.assertEqual(link, RealmAddress.parse(link).link)

    def test_it_comes_from_a_qr_code_or_a_letter(self) -> None:
        for text in (f"  {self.LINK}\n", self.LINK.replace("abst://realm", "ABST://Realm")):
            self.assertEqual(self.LINK, RealmAddress.parse(text).link)

    def test_it_is_no_part_of_what_the_address_is(self) -> None:
        address = RealmAddress.parse(self.LINK)
        plain = RealmAddress("realm.example.org", 4711, PIN)
        self.assertEqual(plain, address)
        self.assertEqual(1, len({plain, address}))
        self.assertIsNone(address.without_invitation.invitation)
        self.assertEqual(plain.link, address.without_invitation.link)

    def test_only_the_link_shows_it(self) -> None:
        address = RealmAddress.parse(self.LINK)
        for shown in (str(address), repr(address), f"{address}", repr([address])):
            self.assertNotIn(INVITATION, shown)

    def test_one_that_was_copied_badly_is_refused_and_not_shown(self) -> None:
        start = f"abst://a/?pin={PIN_TEXT}&invitation="
        for wrong in (
            INVITATION[:-1],
            INVITATION + "A",
            INVITATION[:-1] + "x",
            "",
            INVITATION + "=",
        ):
            self.assert_refused(start + wrong, "invitation is not 22 letters of base64url")
        self.assert_refused(f"{start}{INVITATION}&invitation={INVITATION}", "two invitations")

    def test_no_error_shows_it(self) -> None:
        for text in (
            f"abst://a/?pin={PIN_TEXT}&{INVITATION}",
            f"abst://a/?invite={INVITATION}",
            f"abst://a/?pin={PIN_TEXT}&invitation=\n{INVITATION}",
            f"abst://a/b?invitation={INVITATION}",
            f"abst://a:0?invitation={INVITATION}",
            f"abst://a:42278&invitation={INVITATION}",
            f"abst://a&invitation={INVITATION}",
            f"abst://a/invitation={INVITATION}",
            f"https://a/?invitation={INVITATION}",
            f"abst://a/#invitation={INVITATION}",
            f"abst://a..b/?invitation={INVITATION}",
            f"abst://[/?invitation={INVITATION}",
        ):
            self.assert_refused(text, "")

    def test_devices_tell_each_other_none(self) -> None:
        """A peer could make this device show a wrong one in place of the one that it has."""
        self.assertRaises(AddressError, RealmAddress.parse_told, self.LINK)
        told = RealmAddress.parse_told(str(RealmAddress.parse(self.LINK)))
        self.assertEqual(RealmAddress.parse(self.LINK), told)


class PinTests(TestCase):
    @given(key=st.binary(max_size=60))
    def test_a_pin_is_the_hash_of_the_key(self, key: bytes) -> None:
        self.assertEqual(hashlib.sha256(key).digest(), pin_of_key(key))
        self.assertEqual(43, len(format_pin(pin_of_key(key))))


class DeviceAddressTests(TestCase):
    def test_what_a_device_listens_on_is_read(self) -> None:
        for text, expected in (
            ("192.0.2.7:4000", ("192.0.2.7", 4000)),
            ("[2001:db8::1]:4000", ("2001:db8::1", 4000)),
            ("[fe80::1%eth0]:4000", ("fe80::1%eth0", 4000)),
            (" Phone.local:65535 ", ("phone.local", 65535)),
        ):
            self.assertEqual(expected, parse_host_port(text))

    @given(hosts, st.integers(1, 65535))
    def test_what_is_written_is_read_again(self, host: str, port: int) -> None:
        text = format_host_port(*parse_host_port(format_host_port(host, port)))
        self.assertEqual(text, format_host_port(*parse_host_port(text)))

    def test_what_is_no_address_is_refused(self) -> None:
        for text in (
            "", "phone", "phone:", ":4000", "phone:0", "phone:65536", "phone:4x", "phone:+1",
            "2001:db8::1:4000", "[2001:db8::1]", "a b:1", "phone:\u0664", "x" * 501,
        ):  # fmt: skip
            with self.assertRaises(AddressError, msg=repr(text)):
                parse_host_port(text)

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            host, port = parse_host_port(text)
        except AddressError:
            return
        self.assertTrue(host)
        self.assertTrue(0 < port < 65536)
