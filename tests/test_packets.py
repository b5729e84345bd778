"""Every packet's fields: what is required, what is refused, each limit exactly."""

import math
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst import packets
from abst.codec import encode
from abst.device_id import DeviceID
from abst.errors import Code, LocalProtocolError, RemoteProtocolError
from abst.packets import (
    DEVICE_TO_DEVICE,
    DEVICE_TO_REALM,
    LEG_TO_REALM,
    REALM_TO_DEVICE,
    STREAM_ACCEPTOR,
    STREAM_DIALLER,
    Application,
    BackHeartbeat,
    Circuit,
    ConnectToDevice,
    CreateGroup,
    DeleteValue,
    DeviceHello,
    Error,
    Field,
    FindWindow,
    GetValue,
    GiveGroup,
    GroupEpoch,
    GroupLeft,
    GroupMembers,
    GroupMessage,
    Heartbeat,
    Hello,
    HereInGroup,
    JoinGroup,
    KeyCheck,
    LeaveGroup,
    Leg,
    ListValues,
    OpenStream,
    OpenWindow,
    Packet,
    PairProcess,
    PutValue,
    Send,
    StillHere,
    StreamOpened,
    StreamRefused,
    ValueChanges,
    ValueDeleted,
    ValueFound,
    ValuePut,
    WatchingValues,
    WatchValues,
    WindowFound,
    WindowOpened,
)

ALICE = DeviceID.of_key(b"alice")
BOB = DeviceID.of_key(b"bob")
GROUP = DeviceID.of_key(b"group")
CONVERSATIONS = (
    DEVICE_TO_REALM,
    REALM_TO_DEVICE,
    LEG_TO_REALM,
    DEVICE_TO_DEVICE,
    STREAM_DIALLER,
    STREAM_ACCEPTOR,
)
FACE = "\N{GRINNING FACE}"

EXAMPLES: list[Packet] = [
    Hello(ALICE, version=3, invitation="please", request=7),
    BackHeartbeat(1, 15.0, {"packet_bytes": 65536, "later": 0.5}, bytes(32), ["::1", 5], 7),
    Send(ALICE, BOB, b"sealed", request=7),
    ConnectToDevice(ALICE, BOB, 7),
    Circuit(bytes(8), bytes(32), BOB, True, 10.0, {"circuit_bytes": 0}, 7),
    Leg(bytes(32)),
    Error("queue_full", "slowly", 2, BOB, 3, 1.5, bytes(8), GROUP, 4, 7),
    OpenWindow(close=True, request=7),
    WindowOpened(7, 60.0, 7),
    FindWindow(7, request=7),
    WindowFound(7, BOB, 7),
    CreateGroup(GROUP, 1, bytes(32), bytes(64), bytes(64), 7),
    GroupEpoch(GROUP, 1, bytes(32), 7),
    JoinGroup(GROUP, 1, bytes(64), 7),
    GroupMembers(GROUP, 1, [ALICE, BOB], {"members": 2000}, 7),
    HereInGroup(GROUP),
    StillHere(GROUP, [ALICE]),
    GroupMessage(ALICE, GROUP, b"sealed"),
    LeaveGroup(GROUP, 7),
    GroupLeft(GROUP, [BOB], 7),
    PutValue(GROUP, bytes(32), b"sealed", 3, 60, 7),
    ValuePut(GROUP, 4, 7),
    GetValue(GROUP, bytes(32), 7),
    ValueFound(GROUP, bytes(32), 4, b"sealed", 7),
    DeleteValue(GROUP, bytes(32), b"sealed", 4, 7),
    ValueDeleted(GROUP, 5, 7),
    ListValues(GROUP, 3, 7),
    ValueChanges(
        GROUP, 5, bytes(32), [[5, bytes(32), bytes(32), b"sealed"]], 3, bytes(32), True, 7
    ),
    WatchValues(GROUP, True, 7),
    WatchingValues(GROUP, 5, bytes(32), 7),
    Heartbeat(3, ping=4, pong=5, end=True, first=2, keep=True, addresses=["a:1"]),
    DeviceHello(ALICE, "cellar", True, bytes(16), 9, 1, ["a"], ["b"], ["abst://c/"], True),
    PairProcess("begin", "code", bytes(33), bytes(32), bytes(32), bytes(32), "cellar", "late"),
    KeyCheck(bytes(32), bytes(32)),
    GiveGroup(
        "offer", GROUP, bytes(32), "group", "abst://c/", 1, [bytes(32)], [b"x"], bytes(32), "late"
    ),
    OpenStream("web", bytes(32), bytes(32)),
    StreamOpened(bytes(32), bytes(32)),
    StreamRefused("no_service", "there is none"),
]
"""One packet of each kind, with every field."""

counts = st.integers(0, packets.MAX_COUNT)
seconds = counts | st.floats(0, 2.0**62)
devices = st.binary(min_size=1, max_size=8).map(DeviceID.of_key)
digests = st.binary(min_size=32, max_size=32)
changes = st.tuples(counts, digests, digests, st.none() | st.binary(max_size=300)).map(list)


def texts(characters: int) -> st.SearchStrategy[str]:
    """Return texts that keep a limit; surrogates are no text in UTF-8."""
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=characters)


def _values(item: Field) -> st.SearchStrategy[Any]:
    """Return values that a field holds, after the words of its type."""
    kind = item.type
    if found := re.fullmatch(r"str, at most (\d+) characters", kind):
        return texts(int(found[1]))
    if found := re.fullmatch(r"array of at most (\d+) str, each at most (\d+) characters", kind):
        return st.lists(texts(int(found[2])), max_size=int(found[1]))
    if found := re.fullmatch(r"bin, (\d+) bytes", kind):
        return st.binary(min_size=int(found[1]), max_size=int(found[1]))
    if found := re.fullmatch(r"array of at most \d+ bin, each (\d+) bytes(.*)", kind):
        size = int(found[1])
        return st.lists(
            devices if found[2] else st.binary(min_size=size, max_size=size), max_size=8
        )
    if found := re.fullmatch(r"map of at most (\d+): str to uint or float", kind):
        return st.dictionaries(texts(40), seconds, max_size=int(found[1]))
    if kind.startswith("str, 1 to 64 ASCII letters"):
        return st.text("abcxyzABCXYZ0189-._", min_size=1, max_size=64)
    return {
        "bin": st.binary(max_size=300),
        "bin, 16 bytes, UUID version 8": devices,
        "uint, at most 2^63 - 1": counts,
        "uint or float, seconds": seconds,
        "bool": st.booleans(),
        "bin, at most 67584 bytes": st.binary(max_size=300),
        "array of at most 48 bin, each at most 1024 bytes": st.lists(st.binary(), max_size=8),
        "array of at most 512 arrays of four: uint, bin, bin, bin or nil": st.lists(
            changes, max_size=8
        ),
        "array: str host, uint port": st.tuples(texts(500), counts).map(list),
    }[kind]


def packets_of(kind: type[Packet]) -> st.SearchStrategy[Packet]:
    """Return packets of one kind whose fields keep their limits."""
    choices: dict[str, st.SearchStrategy[Any]] = {}
    for item in (*kind.envelope, *kind.body):
        # A list of texts that is absent is an empty one.
        may_lack = not item.required and not re.match(r"array of at most \d+ str", item.type)
        choices[item.name] = st.none() | _values(item) if may_lack else _values(item)
    return st.builds(kind, **choices)


WRONG_IN_CHANGES: dict[int, list[Any]] = {
    0: [-1, 2**63, 1.0, True, None],
    1: [bytes(31), bytes(33), "x" * 32, None],
    2: [bytes(31), bytes(33), "x" * 32, None],
    3: [bytes(67585), "x", 1, []],
}
"""What must not stand in a change, by its place."""


def boundaries(item: Field) -> tuple[list[Any], list[Any]]:
    """Return a field's last right values and its first wrong ones, after the words of its type."""
    kind = item.type
    if found := re.fullmatch(r"str, at most (\d+) characters", kind):
        most = int(found[1])
        return ["", "x" * most, FACE * most], ["x" * (most + 1), FACE * (most + 1), b"x", 1, []]
    if found := re.fullmatch(r"array of at most (\d+) str, each at most (\d+) characters", kind):
        items, most = int(found[1]), int(found[2])
        right = [[], ["x"] * items, ["x" * most], [FACE * most]]
        return right, [["x"] * (items + 1), ["x" * (most + 1)], [b"x"], [1], "x", {}]
    if found := re.fullmatch(r"bin, (\d+) bytes", kind):
        size = int(found[1])
        return [bytes(size)], [b"", bytes(size - 1), bytes(size + 1), "x" * size, [0] * size]
    if found := re.fullmatch(r"bin, at most (\d+) bytes", kind):
        most = int(found[1])
        return [b"", bytes(most)], [bytes(most + 1), "x", 1, []]
    if found := re.fullmatch(r"array of at most (\d+) bin, each at most (\d+) bytes", kind):
        items, most = int(found[1]), int(found[2])
        fits = [[], [b"x"] * items, [b"", bytes(most)]]
        return fits, [[b"x"] * (items + 1), [bytes(most + 1)], ["x"], [1], [[]], b"x", {}]
    if found := re.fullmatch(r"array of at most (\d+) bin, each (\d+) bytes(.*)", kind):
        items, one = int(found[1]), bytes(ALICE) if found[3] else bytes(int(found[2]))
        wrong = [[one] * (items + 1), [one[1:]], [one + b"x"], ["x" * len(one)], [1], one, {}]
        return [[], [one] * items], [*wrong, [bytes(16)]]
    if found := re.fullmatch(r"map of at most (\d+): str to uint or float", kind):
        most = int(found[1])
        full: dict[Any, Any] = {str(key): key for key in range(most)}
        wrong = [{**full, "more": 1}, {"x": -1}, {"x": "1"}, {1: 1}, {b"x": 1}, {"x": True}, []]
        return [{}, full, {"x": 0.5}], wrong
    if kind == "array of at most 512 arrays of four: uint, bin, bin, bin or nil":
        change: list[Any] = [2**63 - 1, bytes(32), bytes(32), bytes(67584)]
        bad: list[Any] = [
            [[*change[:at], part, *change[at + 1 :]]]
            for at, parts in WRONG_IN_CHANGES.items()
            for part in parts
        ]
        bad += [[change[:3]], [[*change, None]], change, [change] * 513]
        return [[], [change] * 512, [[*change[:3], None]]], [*bad, [b"x"], b"x", {}]
    if kind.startswith("str, 1 to 64 ASCII letters"):
        wrong_letters = [*" /:\n\0", "\u00e4", "\u0661", FACE, "a b"]
        return ["a", "x" * 64, "Az09-._"], ["", "x" * 65, *wrong_letters, b"web", 1, []]
    other: dict[str, tuple[list[Any], list[Any]]] = {
        "bin": ([b"", bytes(100)], ["", [], 1, {}]),
        "bin, 16 bytes, UUID version 8": (
            [ALICE, bytes(6) + b"\x80" + b"\0\x80" + bytes(7)],
            [
                *(ALICE[:15], ALICE + b"\0", bytes(16), b"", str(ALICE), "x" * 16),
                ALICE[:6] + b"\x4f" + ALICE[7:],  # another version
                ALICE[:8] + b"\x3f" + ALICE[9:],  # another variant
                ALICE[:8] + b"\xc0" + ALICE[9:],
            ],
        ),
        "uint, at most 2^63 - 1": (
            [0, 2**63 - 1],
            [-1, 2**63, 2**64 - 1, 0.0, 1.5, True, False, "1", b"1"],
        ),
        "uint or float, seconds": (
            [0, 0.0, 0.25, 2**63 - 1],
            [-1, -0.25, 2**63, math.inf, -math.inf, math.nan, True, "1"],
        ),
        "bool": ([True, False], [0, 1, "true", b""]),
        "array: str host, uint port": (
            [["", 0], ["x" * 500, 2**63 - 1]],
            [[], ["x"], ["x", 1, 2], [b"x", 1], ["x", "1"], ["x", -1], ["x" * 501, 1], "x1", {}],
        ),
    }
    return other[kind]


def map_with(packet: Packet, item: Field, value: Any) -> dict[str, Any]:
    """Return a packet's map with one field changed."""
    found = packet.to_map()
    place = found if item in packet.envelope else found["content"]
    place[item.name] = value
    return found


def with_field(packet: Packet, name: str, value: Any) -> Packet:
    """Return a packet with one field changed, unchecked."""
    fields = [*packet.envelope, *packet.body]
    values = {item.name: getattr(packet, item.name) for item in fields}
    return type(packet)(**{**values, name: value})


class FieldTests(TestCase):
    def every_field(self) -> list[tuple[Packet, Field]]:
        return [(p, item) for p in EXAMPLES for item in (*p.envelope, *p.body)]

    def test_there_is_an_example_of_every_packet(self) -> None:
        known = {kind for conversation in CONVERSATIONS for kind in conversation.values()}
        self.assertEqual(known, {type(packet) for packet in EXAMPLES})
        for packet, item in self.every_field():
            self.assertIsNotNone(getattr(packet, item.name), item.name)

    def test_the_last_right_values_are_accepted(self) -> None:
        for packet, item in self.every_field():
            for value in boundaries(item)[0]:
                parsed = type(packet).from_map(map_with(packet, item, value))
                self.assertEqual(value, getattr(parsed, item.name), (packet.title, item.name))

    def test_the_first_wrong_values_are_malformed(self) -> None:
        """The one who gets the error learns the field's name, and not what stood in it."""
        for packet, item in self.every_field():
            for value in boundaries(item)[1]:
                broken = map_with(packet, item, value)
                error = self.assertRaises(RemoteProtocolError, type(packet).from_map, broken)
                self.assertIs(Code.MALFORMED, error.code)
                self.assertEqual(f"{item.name}: needs {item.type}", error.reason)

    def test_what_would_be_refused_is_not_sent(self) -> None:
        for packet, item in self.every_field():
            for value in boundaries(item)[1]:
                self.assertRaises(LocalProtocolError, with_field(packet, item.name, value).to_map)

    def test_a_required_field_must_be_there(self) -> None:
        """Nil is as good as absent: for an optional field nothing, for a required one an error."""
        for packet, item in self.every_field():
            nil = map_with(packet, item, None)
            absent = packet.to_map()
            del (absent if item in packet.envelope else absent["content"])[item.name]
            for changed in (nil, absent):
                if item.required:
                    error = self.assertRaises(RemoteProtocolError, type(packet).from_map, changed)
                    self.assertEqual(Code.MALFORMED, error.code)
                    self.assertEqual(f"{item.name}: missing", error.reason)
                else:
                    type(packet).from_map(changed)

    def test_a_required_field_must_be_given(self) -> None:
        for packet, item in self.every_field():
            if item.required:
                bare = with_field(packet, item.name, None)
                self.assertRaises(LocalProtocolError, bare.to_map)

    def test_a_body_is_a_map(self) -> None:
        for packet in EXAMPLES:
            if not packet.body:
                continue
            wrong: list[Any] = [None, [], b"", "x", 1]
            for content in wrong:
                broken = {**packet.to_map(), "content": content}
                error = self.assertRaises(RemoteProtocolError, type(packet).from_map, broken)
                self.assertEqual(Code.MALFORMED, error.code)
            headless = packet.to_map()
            del headless["content"]
            self.assertRaises(RemoteProtocolError, type(packet).from_map, headless)

    def test_unknown_keys_are_ignored(self) -> None:
        for packet in EXAMPLES:
            packet_map = {**packet.to_map(), "later": [1, 2]}
            if packet.body:
                packet_map["content"]["later"] = {"a": 1}
            self.assertEqual(packet, type(packet).from_map(packet_map))

    def test_every_example_survives_its_map(self) -> None:
        for packet in EXAMPLES:
            self.assertEqual(packet, type(packet).from_map(packet.to_map()))

    def test_what_is_relayed_has_its_keys_in_canonical_order(self) -> None:
        keys = list(Send(ALICE, BOB, b"").to_map())
        self.assertEqual(["packet_id", "source_device", "target_device", "content"], keys)
        keys = list(GroupMessage(ALICE, GROUP, b"").to_map())
        self.assertEqual(["packet_id", "source_device", "peer_group", "content"], keys)

    def test_the_longest_list_of_members_fits_a_packet(self) -> None:
        limits = {"x" * 20 + str(number): 0.1 for number in range(packets.MAX_LIMITS)}
        most, largest = packets.MAX_MEMBERS, packets.MAX_COUNT
        members = GroupMembers(GROUP, largest, [ALICE] * most, limits, largest)
        self.assertLess(len(encode(members)), packets.MAX_PACKET_BYTES)


class ParseTests(TestCase):
    def test_packet_ids_are_0_to_255(self) -> None:
        self.assertEqual([0, 255], [packets.id_of({"packet_id": wanted}) for wanted in (0, 255)])

    def test_anything_else_is_no_packet_id(self) -> None:
        wrong: list[Any] = [-1, 256, 2**63, 1.0, True, False, None, "0", b"\0", [], {}]
        for value in wrong:
            error = self.assertRaises(RemoteProtocolError, packets.id_of, {"packet_id": value})
            self.assertIs(Code.MALFORMED, error.code)
        self.assertRaises(RemoteProtocolError, packets.id_of, {})
        self.assertRaises(RemoteProtocolError, packets.id_of, {b"packet_id": 0})

    def test_ids_mean_what_their_conversation_says(self) -> None:
        """Id 0 is another packet in most of the conversations."""
        for known in CONVERSATIONS:
            for packet_id, kind in known.items():
                example = next(packet for packet in EXAMPLES if type(packet) is kind)
                self.assertEqual(packet_id, example.packet_id)
                self.assertEqual(example, packets.parse(example.to_map(), known))

    def test_an_id_of_another_conversation_is_unknown(self) -> None:
        for known in CONVERSATIONS:
            for packet_id in set(range(256)) - set(known):
                error = self.assertRaises(
                    RemoteProtocolError, packets.parse, {"packet_id": packet_id}, known
                )
                self.assertIs(Code.UNKNOWN_PACKET, error.code)

    def test_the_protocols_own_ids_are_below_the_applications(self) -> None:
        self.assertEqual(set(range(packets.FIRST_APPLICATION_ID)), set(DEVICE_TO_DEVICE))

    def test_packets_about_values_have_ids_of_both_ways(self) -> None:
        for packet_id in packets.VALUE_PACKET_IDS:
            for known in (DEVICE_TO_REALM, REALM_TO_DEVICE):
                self.assertIn("Value", known[packet_id].__name__)


class BetweenDevicesTests(TestCase):
    def test_ids_from_5_on_are_the_applications(self) -> None:
        for packet_id in (5, 31, 255):
            content: Any
            for content in (None, b"", {"a": [1]}, "x"):
                parsed = packets.parse_between_devices({"packet_id": packet_id, "content": content})
                self.assertEqual(Application(packet_id, content), parsed)

    def test_an_application_packet_has_content(self) -> None:
        error = self.assertRaises(
            RemoteProtocolError, packets.parse_between_devices, {"packet_id": 5}
        )
        self.assertIs(Code.MALFORMED, error.code)

    def test_the_protocols_ids_are_not_the_applications(self) -> None:
        for packet_id in (-1, 0, 1, 2, 3, 4, 256):
            self.assertRaises(LocalProtocolError, Application(packet_id, b"").to_map)
        for packet_id in (5, 255):
            self.assertEqual(packet_id, Application(packet_id, b"").to_map()["packet_id"])

    @given(packet=st.one_of(*map(packets_of, DEVICE_TO_DEVICE.values())))
    def test_the_protocols_own_packets_survive(self, packet: Packet) -> None:
        self.assertEqual(packet, packets.parse_between_devices(packet.to_map()))
