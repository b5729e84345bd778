"""The device's end of a realm's conversation: any split, any silence, any realm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst import codec
from abst.device.realm_client import (
    ANSWER_SECONDS,
    Delivered,
    Event,
    RealmClient,
    Refused,
    Welcomed,
)
from abst.device_id import DeviceID
from abst.errors import Code, LocalProtocolError, RemoteProtocolError
from abst.packets import (
    DEVICE_TO_REALM,
    HEADROOM_BYTES,
    MAX_PACKET_BYTES,
    BackHeartbeat,
    Error,
    Hello,
    Packet,
    Send,
    parse,
)

ALICE: Final = DeviceID.of_key(b"alice")
BOB: Final = DeviceID.of_key(b"bob")
DEFAULT_LIMITS: Final[dict[str, float]] = {"packet_bytes": MAX_PACKET_BYTES}


def back(
    heartbeat_seconds: float = 15.0, limits: dict[str, float] | None = None, **fields: Any
) -> bytes:
    return codec.encode(
        BackHeartbeat(
            fields.pop("version", 1),
            heartbeat_seconds,
            DEFAULT_LIMITS if limits is None else limits,
            bytes(32),
            **fields,
        )
    )


def events(client: RealmClient) -> list[Event]:
    return list(iter(client.next_event, None))


def packets_from(client: RealmClient) -> Iterator[Packet]:
    decoder = codec.Decoder()
    decoder.receive_data(client.data_to_send())
    for item in iter(decoder.next_map, None):
        yield parse(item, DEVICE_TO_REALM)


class Base(TestCase):
    def setUp(self) -> None:
        self.client = RealmClient(ALICE, 100.0)

    def welcome(self, now: float = 100.0, **fields: Any) -> list[Event]:
        list(packets_from(self.client))
        self.client.receive_data(back(**fields), now)
        return events(self.client)

    def assert_breaks(self, code: Code, data: bytes) -> None:
        error = self.assertRaises(RemoteProtocolError, self.client.receive_data, data, 100.0)
        self.assertEqual(code, error.code)


class ConversationTests(Base):
    def test_hello_comes_first(self) -> None:
        self.assertEqual([Hello(ALICE, request=1)], list(packets_from(self.client)))
        self.assertEqual(b"", self.client.data_to_send())

    def test_back_heartbeat_is_the_welcome_and_tells_once(self) -> None:
        self.assertEqual(
            [Welcomed(MAX_PACKET_BYTES - HEADROOM_BYTES, ("192.0.2.7", 4711), bytes(32))],
            self.welcome(observed_address=["192.0.2.7", 4711]),
        )
        self.assertEqual([], self.welcome())

    def test_an_observed_address_that_is_none_is_not_believed(self) -> None:
        for host in ("", "h" * 500, "host.test", "192.0.2.7:4711", "192.0.2.7\n"):
            self.client = RealmClient(ALICE, 100.0)
            (welcomed,) = self.welcome(observed_address=[host, 4711])
            assert isinstance(welcomed, Welcomed)
            self.assertIsNone(welcomed.observed_address)

    def test_what_others_send_is_delivered(self) -> None:
        self.welcome()
        self.client.receive_data(codec.encode(Send(BOB, ALICE, b"hello")), 101.0)
        self.assertEqual([Delivered(BOB, b"hello")], events(self.client))

    def test_what_is_sent_names_both_ends(self) -> None:
        self.welcome()
        self.client.send(BOB, b"one")
        self.client.send(BOB, b"two")
        self.assertEqual(
            [Send(ALICE, BOB, b"one"), Send(ALICE, BOB, b"two")],
            list(packets_from(self.client)),
        )

    def test_any_split_gives_the_same(self) -> None:
        whole = (
            back()
            + codec.encode(Send(BOB, ALICE, bytes(300)))
            + codec.encode(Error("queue_full", "", target_device=BOB))
            + back(request=2)
            + codec.encode(Send(BOB, ALICE, b""))
        )
        self.client.receive_data(whole, 100.0)
        wanted = events(self.client)
        self.assertEqual(4, len(wanted))

        @given(st.lists(st.integers(0, len(whole)), max_size=12).map(sorted))
        def check(cuts: list[int]) -> None:
            client = RealmClient(ALICE, 100.0)
            for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                client.receive_data(whole[begin:end], 100.0)
            self.assertEqual(wanted, events(client))

        check()


class RefusalTests(Base):
    def refuse(self, error: Error) -> Refused:
        self.client.receive_data(codec.encode(error), 100.0)
        (event,) = events(self.client)
        assert isinstance(event, Refused)
        return event

    def test_each_code_tells_whether_the_connection_ends(self) -> None:
        self.assertTrue(self.refuse(Error("wrong_version", "")).closes)
        self.assertTrue(self.refuse(Error("restarting", "", retry_after=1.5)).closes)
        self.assertFalse(self.refuse(Error("queue_full", "", target_device=BOB)).closes)

    def test_a_code_of_a_newer_realm_is_passed_on(self) -> None:
        event = self.refuse(Error("moved_to_the_moon", "far away", retry_after=9))
        self.assertEqual("moved_to_the_moon", event.error.code)
        self.assertFalse(event.closes)


class NewerRealmTests(Base):
    """What this version does not know does not disturb it."""

    def test_unknown_packets_are_ignored(self) -> None:
        self.welcome()
        for packet_id in (15, 30, 32, 255):
            self.client.receive_data(msgpack.packb({"packet_id": packet_id, "content": {}}), 101.0)
        self.client.receive_data(codec.encode(Send(BOB, ALICE, b"x")), 101.0)
        self.assertEqual([Delivered(BOB, b"x")], events(self.client))

    def test_unknown_keys_are_ignored(self) -> None:
        self.welcome()
        whole = {**Send(BOB, ALICE, b"x").to_map(), "priority": 3, "trace": {"a": [1]}}
        self.client.receive_data(msgpack.packb(whole), 101.0)
        self.assertEqual([Delivered(BOB, b"x")], events(self.client))

    def test_unknown_limits_and_versions_are_ignored(self) -> None:
        told = self.welcome(version=7, limits={**DEFAULT_LIMITS, "groups": 5, "values_bytes": 1.5})
        self.assertEqual(1, len(told))


class HostileRealmTests(Base):
    """A realm is trusted with nothing but carrying bytes."""

    def test_a_tiny_packet_limit_is_taken_for_a_usable_one(self) -> None:
        for limits in ({"packet_bytes": 0}, {"packet_bytes": 0.5}, {"packet_bytes": 1}):
            self.client = RealmClient(ALICE, 100.0)
            (welcomed,) = self.welcome(limits=limits)
            assert isinstance(welcomed, Welcomed)
            self.assertEqual(1024 - HEADROOM_BYTES, welcomed.max_content_bytes)

    def test_a_huge_packet_limit_is_taken_for_the_protocols_own(self) -> None:
        (welcomed,) = self.welcome(limits={"packet_bytes": 2**40})
        assert isinstance(welcomed, Welcomed)
        self.assertEqual(MAX_PACKET_BYTES - HEADROOM_BYTES, welcomed.max_content_bytes)
        self.client.send(BOB, bytes(welcomed.max_content_bytes))
        self.assertRaises(LocalProtocolError, self.client.send, BOB, bytes(MAX_PACKET_BYTES))

    def test_no_limit_at_all_means_the_protocols_own(self) -> None:
        (welcomed,) = self.welcome(limits={})
        assert isinstance(welcomed, Welcomed)
        self.assertEqual(MAX_PACKET_BYTES - HEADROOM_BYTES, welcomed.max_content_bytes)

    def test_limits_that_shrink_later_break_nothing(self) -> None:
        """What was told once holds for the connection: its user has cut its bytes to fit."""
        (welcomed,) = self.welcome()
        assert isinstance(welcomed, Welcomed)
        self.welcome(limits={"packet_bytes": 1024})
        self.client.send(BOB, bytes(welcomed.max_content_bytes))
        self.assertEqual(1, len(list(packets_from(self.client))))

    def test_the_largest_content_fits_with_the_longest_header(self) -> None:
        for packet_bytes in (1024, 4000, MAX_PACKET_BYTES):
            self.client = RealmClient(ALICE, 100.0)
            (welcomed,) = self.welcome(limits={"packet_bytes": packet_bytes})
            assert isinstance(welcomed, Welcomed)
            self.client.send(BOB, bytes(welcomed.max_content_bytes))
            self.assertLessEqual(len(self.client.data_to_send()), packet_bytes)

    def test_a_heartbeat_period_of_nothing_makes_no_flood(self) -> None:
        self.welcome(heartbeat_seconds=0)
        self.assertGreaterEqual(self.client.next_deadline(), 100.1)

    def test_an_endless_heartbeat_period_is_an_hour(self) -> None:
        self.welcome(heartbeat_seconds=2**62)
        self.assertLessEqual(self.client.next_deadline(), 100.0 + 3600)

    def test_no_number_is_no_period(self) -> None:
        for seconds in (float("nan"), float("inf"), -1.0, 2.0**70):
            self.client = RealmClient(ALICE, 100.0)
            packet = {
                "packet_id": 0,
                "content": {
                    "version": 1,
                    "heartbeat_seconds": seconds,
                    "limits": {},
                    "nonce": bytes(32),
                },
            }
            self.assert_breaks(Code.MALFORMED, msgpack.packb(packet))

    def test_nothing_is_delivered_before_the_welcome(self) -> None:
        self.assert_breaks(Code.HELLO_FIRST, codec.encode(Send(BOB, ALICE, b"x")))

    def test_a_refusal_may_come_before_the_welcome(self) -> None:
        self.client.receive_data(codec.encode(Error("realm_full", "", retry_after=30)), 100.0)
        self.assertEqual(1, len(events(self.client)))

    @given(st.binary(max_size=200))
    def test_any_bytes_give_events_or_one_error(self, data: bytes) -> None:
        client = RealmClient(ALICE, 100.0)
        try:
            client.receive_data(data, 100.0)
        except RemoteProtocolError:
            pass
        events(client)

    def test_what_is_malformed_ends_the_connection(self) -> None:
        self.assert_breaks(Code.MALFORMED, b"\xc1")
        self.client = RealmClient(ALICE, 100.0)
        self.assert_breaks(Code.MALFORMED, b"\x81\xa9packet_id\x00")
        self.client = RealmClient(ALICE, 100.0)
        huge = b"\x82\xa9packet_id\x02\xa7content\xc6\x00\x02\x00\x00" + bytes(70_000)
        self.assert_breaks(Code.TOO_LARGE, huge)


class HeartbeatTests(Base):
    """Time is an argument."""

    def test_hello_comes_again_once_a_period(self) -> None:
        self.welcome(heartbeat_seconds=15)
        self.assertEqual(115.0, self.client.next_deadline())
        self.client.handle_deadline(114.9)
        self.assertEqual(b"", self.client.data_to_send())
        self.client.handle_deadline(115.0)
        self.assertEqual([Hello(ALICE, request=2)], list(packets_from(self.client)))
        self.client.receive_data(back(), 115.1)
        self.assertEqual(130.0, self.client.next_deadline())

    def test_a_realm_that_never_answers_is_left(self) -> None:
        self.client.handle_deadline(100.0 + ANSWER_SECONDS - 0.01)
        self.assertRaises(RemoteProtocolError, self.client.handle_deadline, 100.0 + ANSWER_SECONDS)

    def test_a_realm_that_falls_silent_is_left_after_two_heartbeats(self) -> None:
        self.welcome(heartbeat_seconds=15)
        for now in (115.0, 130.0):
            self.client.handle_deadline(now)
        due = self.client.next_deadline()
        self.assertTrue(130.0 < due < 145.0, due)
        error = self.assertRaises(RemoteProtocolError, self.client.handle_deadline, due)
        self.assertEqual(Code.SILENT, error.code)

    def test_whatever_comes_shows_that_the_realm_is_there(self) -> None:
        self.welcome(heartbeat_seconds=15)
        for now in range(110, 400, 10):
            self.client.receive_data(codec.encode(Send(BOB, ALICE, b"x")), float(now))
            self.client.handle_deadline(float(now))

    def test_the_realms_period_is_followed_when_it_changes(self) -> None:
        self.welcome(heartbeat_seconds=15)
        self.client.receive_data(back(heartbeat_seconds=5), 101.0)
        self.assertEqual(106.0, self.client.next_deadline())
        self.client.handle_deadline(106.0)
        self.client.receive_data(back(heartbeat_seconds=60), 106.0)
        self.client.handle_deadline(111.0)
        self.client.receive_data(back(heartbeat_seconds=60), 111.0)
        self.assertEqual(171.0, self.client.next_deadline())


class InvitationTests(Base):
    """A realm that does not know this device yet is shown an invitation."""

    def test_hello_shows_it_until_the_realm_has_answered(self) -> None:
        client = RealmClient(ALICE, 100.0, "a-secret")
        self.assertEqual(
            [Hello(ALICE, invitation="a-secret", request=1)], list(packets_from(client))
        )
        client.receive_data(back(heartbeat_seconds=15), 100.1)
        client.handle_deadline(115.2)
        self.assertEqual([Hello(ALICE, request=2)], list(packets_from(client)))

    def test_without_one_hello_has_none(self) -> None:
        self.assertNotIn(b"invitation", RealmClient(ALICE, 100.0).data_to_send())
