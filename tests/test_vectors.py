"""The examples in tests/vectors/: the code says what they say, in both directions."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from abst import codec, packets
from abst.address import RealmAddress, format_pin
from abst.device import key_check
from abst.device.agreement import common_session
from abst.device.channel import begins_channel, split_content
from abst.device.device import Device
from abst.device.knock import Door, knock
from abst.device.pairing import Ends, Pairing, Role, Show, Store, Way
from abst.device.pairing_attempt import PairingLink
from abst.device.paths import Path as DevicePath
from abst.device.pipes import Pipe
from abst.device.protocol import DeviceFactory
from abst.device_id import DeviceID
from abst.errors import MEANINGS, AbstError, AddressError, Code, RemoteProtocolError
from abst.group_proofs import allows_move, group_id_of, proves
from abst.identity import Identity
from abst.packets import (
    MAX_PACKET_BYTES,
    Application,
    BackHeartbeat,
    Error,
    Packet,
)
from abst.realm.access import Mode
from tests.realm.group_members import device_of
from tests.realm.memory_realm import Line, MemoryRealm

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "tests" / "vectors"
CONVERSATIONS = {
    "device to realm": packets.DEVICE_TO_REALM,
    "realm to device": packets.REALM_TO_DEVICE,
    "leg to realm": packets.LEG_TO_REALM,
    "device to device": packets.DEVICE_TO_DEVICE,
    "stream dialler": packets.STREAM_DIALLER,
    "stream acceptor": packets.STREAM_ACCEPTOR,
}
# What reads packets, and so what says that one is refused.
READERS = [
    *(ROOT / "abst" / name for name in ("codec.py", "framing.py")),
    *sorted((ROOT / "abst" / "packets").glob("*.py")),
]


def load(file: str) -> Any:
    """Return what a file of vectors holds."""
    return json.loads((VECTORS / file).read_text("utf-8"))


def value_of(written: Any) -> Any:
    """Return the value that JSON stands for: see docs/spec/README.md, "Vectors"."""
    match written:
        case {"hex": text}:
            return bytes.fromhex(text)
        case {"float": number}:
            return float(number)
        case {"timestamp": [seconds, nanoseconds]}:
            return msgpack.Timestamp(seconds, nanoseconds)
        case dict():
            return {key: value_of(item) for key, item in written.items()}
        case list():
            return [value_of(item) for item in written]
        case _:
            return written


def parse(conversation: str, packet: dict[Any, Any]) -> Packet:
    """Return the packet that a map means in a conversation."""
    if conversation == "device to device":
        return packets.parse_between_devices(packet)
    return packets.parse(packet, CONVERSATIONS[conversation])


def fields_of(packet: Packet) -> dict[str, Any]:
    """Return a packet's fields by name, without those that are absent."""
    if isinstance(packet, Application):
        return {"id": packet.id, "content": packet.content}
    named = {item.name: getattr(packet, item.name) for item in (*packet.envelope, *packet.body)}
    return {name: value for name, value in named.items() if value is not None}


def kind_of(entry: dict[str, Any]) -> type[Packet]:
    """Return the class of the packet that an entry names."""
    if entry["packet"] == Application.title:
        return Application
    kinds = CONVERSATIONS[entry["conversation"]].values()
    return next(kind for kind in kinds if kind.title == entry["packet"])


def identities() -> list[Identity]:
    """Return the identities of the vectors."""
    return [
        Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(entry["private_key"])))
        for entry in load("identity.json")["identities"]
    ]


class Tape:
    """Randomness that a vector decides."""

    def __init__(self, text: str) -> None:
        self._left = bytes.fromhex(text)

    def __call__(self, count: int) -> bytes:
        found, self._left = self._left[:count], self._left[count:]
        assert len(found) == count
        return found


class PairingTests(TestCase):
    def ends(self) -> Ends:
        first, second = identities()[:2]
        exporter = bytes.fromhex(load("pairing.json")["exporter"])
        return Ends(
            (bytes(first.device_id), first.public_key),
            (bytes(second.device_id), second.public_key),
            exporter,
        )

    def test_conversations(self) -> None:
        """The same secrets and the same randomness give the same packets, and the same key."""
        for entry in load("pairing.json")["conversations"]:
            sides = [
                Pairing(
                    role,
                    Way(entry["way"]),
                    self.ends(),
                    name=entry["names"][role],
                    secret=bytes.fromhex(entry["secret"]),
                    random_bytes=Tape(entry["random"][role]),
                    now=0.0,
                )
                for role in Role
            ]
            said: list[dict[str, str]] = []
            sides[0].start()
            words: set[str] = set()
            keys: set[str] = set()
            moved = True
            while moved:
                moved = False
                for index, (side, other) in enumerate((sides, sides[::-1])):
                    while (event := side.next_event()) is not None:
                        moved = True
                        match event:
                            case Show():
                                words.add(event.words)
                                side.person_says(True)
                            case Store():
                                keys.add(event.pairing_key.hex())
                                side.stored()
                    while (packet := side.next_packet()) is not None:
                        moved = True
                        data = codec.encode(packet)
                        said.append({"from": list(Role)[index].value, "bytes": data.hex()})
                        other.receive(packet)
            self.assertEqual(entry["packets"], said, entry["name"])
            self.assertEqual({entry["pairing_key"]}, keys, entry["name"])
            self.assertEqual({entry["words"]} - {None}, words, entry["name"])

    def test_key_checks(self) -> None:
        for entry in load("pairing.json")["key_checks"]:
            exporter = bytes.fromhex(entry["exporter"])
            key = bytes.fromhex(entry["pairing_key"])
            for by_dialler, name in ((True, "dialler"), (False, "acceptor")):
                mac = key_check.proof(key, exporter, by_dialler=by_dialler)
                self.assertEqual(entry[name], mac.hex(), entry["name"])

    def test_trust_by_id(self) -> None:
        first, second = (bytes(identity.device_id) for identity in identities()[:2])
        key = key_check.trust_key(first, second).hex()
        entry = load("pairing.json")["key_checks"][0]
        self.assertEqual(entry["pairing_key"], key)

    def test_links(self) -> None:
        for entry in load("pairing.json")["links"]:
            link = PairingLink(
                DeviceID.parse(entry["device_id"]),
                bytes.fromhex(entry["secret"]),
                tuple(map(RealmAddress.parse, entry["realms"])),
            )
            self.assertEqual(entry["text"], str(link), entry["name"])
            self.assertEqual(link, PairingLink.parse(entry["text"]), entry["name"])


class FileTests(TestCase):
    def test_every_file_describes_itself_and_names_its_entries_once(self) -> None:
        for path in sorted(VECTORS.iterdir()):
            found = load(path.name)
            self.assertTrue(found.pop("description"))
            found.pop("exporter", None)
            for entries in found.values():
                names = [entry["name"] for entry in entries]
                self.assertEqual(len(set(names)), len(names), path)
                self.assertTrue(all(names))

    def test_bytes_have_one_form(self) -> None:
        def every_hex(written: Any) -> list[str]:
            match written:
                case dict():
                    keys = {
                        "hex",
                        "bytes",
                        "sends",
                        "content",
                        "records",
                        "channel_number",
                        "answer",
                    }
                    own = [item for key, item in written.items() if key in keys]
                    return [item for item in own if isinstance(item, str)] + [
                        text for item in written.values() for text in every_hex(item)
                    ]
                case list():
                    return [text for item in written for text in every_hex(item)]
            return []

        for file in ("packets.json", "refused.json", "realm.json", "channel.json"):
            for text in every_hex(load(file)):
                self.assertEqual(bytes.fromhex(text).hex(), text)


class IdentityTests(TestCase):
    def test_everything_follows_from_the_private_key(self) -> None:
        for entry, identity in zip(load("identity.json")["identities"], identities(), strict=True):
            certificate = identity.certificate().public_bytes(Encoding.DER)
            found = {
                "name": entry["name"],
                "private_key": identity.private_key.private_bytes_raw().hex(),
                "public_key": identity.private_key.public_key().public_bytes_raw().hex(),
                "subject_public_key_info": identity.public_key.hex(),
                "pin": identity.pin.hex(),
                "pin_text": format_pin(identity.pin),
                "device_id": identity.device_id.hex(),
                "device_id_text": str(identity.device_id),
                "certificate": certificate.hex(),
            }
            self.assertEqual(entry, found)
            self.assertEqual(identity.device_id, DeviceID.parse(entry["device_id_text"]))

    def test_addresses(self) -> None:
        for entry in load("identity.json")["addresses"]:
            pin = None if entry["pin"] is None else bytes.fromhex(entry["pin"])
            address = RealmAddress(entry["host"], entry["port"], pin, entry["invitation"])
            self.assertEqual(address, RealmAddress.parse(entry["text"]), entry["name"])
            self.assertEqual(address, RealmAddress.parse(entry["written"]), entry["name"])
            self.assertEqual(entry["written"], str(address))
            self.assertEqual(entry["invitation"], RealmAddress.parse(entry["text"]).invitation)
            self.assertEqual(entry["link"], address.link)

    def test_bad_addresses(self) -> None:
        for entry in load("identity.json")["bad_addresses"]:
            with self.assertRaises(AddressError, msg=entry["name"]):
                RealmAddress.parse(entry["text"])

    def test_bad_device_ids(self) -> None:
        for entry in load("identity.json")["bad_device_ids"]:
            with self.assertRaises(ValueError, msg=entry["name"]):
                DeviceID.parse(entry["text"])


class PacketTests(TestCase):
    def test_bytes_mean_the_fields(self) -> None:
        for entry in load("packets.json")["packets"]:
            decoder = codec.Decoder()
            decoder.receive_data(bytes.fromhex(entry["bytes"]))
            packet = decoder.next_map()
            assert packet is not None, entry["name"]
            self.assertEqual(0, decoder.buffered_bytes, entry["name"])
            parsed = parse(entry["conversation"], packet)
            self.assertIs(kind_of(entry), type(parsed), entry["name"])
            self.assertEqual(value_of(entry["fields"]), fields_of(parsed), entry["name"])

    def test_the_fields_make_the_bytes(self) -> None:
        for entry in load("packets.json")["packets"]:
            encoded = codec.encode(kind_of(entry)(**value_of(entry["fields"])))
            same = encoded.hex() == entry["bytes"]
            self.assertEqual(entry["canonical"], same, (entry["name"], encoded.hex()))

    def test_every_packet_and_every_field_has_a_vector(self) -> None:
        seen: dict[tuple[str, str], set[str]] = {}
        for entry in load("packets.json")["packets"]:
            key = (entry["conversation"], entry["packet"])
            seen.setdefault(key, set()).update(entry["fields"])
        for conversation, known in CONVERSATIONS.items():
            for kind in known.values():
                names = {item.name for item in (*kind.envelope, *kind.body)}
                if (conversation, kind.title) == ("realm to device", "Send to another device"):
                    names.discard("request")
                self.assertEqual(names, seen[conversation, kind.title], kind.title)
        self.assertIn(("device to device", Application.title), seen)


class RefusedTests(TestCase):
    def setUp(self) -> None:
        self.first, self.second = (identity.device_id for identity in identities()[:2])

    def assert_refused(self, entry: dict[str, Any], data: bytes) -> None:
        """Check that a realm, or a device, refuses bytes with the right code."""
        if entry["conversation"] == "device to realm":
            code, closes = self.refused_by_realm(entry["state"], data)
        else:
            self.assertIsNone(entry["state"])
            code, closes = self.refused_by_device(entry["conversation"], data), True
        self.assertEqual((entry["code"], entry["closes"]), (code, closes), entry["name"])

    def refused_by_realm(self, state: str, data: bytes) -> tuple[str, bool]:
        realm = MemoryRealm()
        realm.join(self.second)
        line = realm.connect(self.first) if state == "AWAITING_HELLO" else realm.join(self.first)
        self.assertEqual(state, line.conversation.state.name)
        line.send(data)
        codes = line.take_codes()
        return ", ".join(codes), bool(line.ended)

    def refused_by_device(self, conversation: str, data: bytes) -> str:
        decoder = codec.Decoder()
        try:
            decoder.receive_data(data)
            packet = decoder.next_map()
            assert packet is not None, "more bytes are waited for"
            parse(conversation, packet)
        except RemoteProtocolError as error:
            return error.code
        return "accepted"

    def test_each_is_refused_with_its_code(self) -> None:
        for entry in load("refused.json")["refused"]:
            data = bytes.fromhex(entry["bytes"])
            self.assert_refused(entry, data + bytes(entry.get("then_zeros", 0)))

    def test_closing_is_what_the_table_of_codes_says(self) -> None:
        for entry in load("refused.json")["refused"]:
            self.assertEqual(MEANINGS[Code(entry["code"])].closes, entry["closes"], entry["name"])

    def test_every_code_that_reading_can_raise_has_a_vector(self) -> None:
        raised = {
            node.attr
            for file in READERS
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "Code"
        }
        self.assertEqual({"MALFORMED", "TOO_LARGE", "UNKNOWN_PACKET"}, raised)
        seen = {Code(entry["code"]).name for entry in load("refused.json")["refused"]}
        self.assertEqual(set(), raised - seen)
        self.assertLessEqual({"HELLO_FIRST", "WRONG_DEVICE", "WRONG_SOURCE", "WRONG_VERSION"}, seen)

    def test_an_accepted_packet_would_be_noticed(self) -> None:
        """The tests above compare refusals; this one shows that they would see none."""
        entry = {"conversation": "device to device", "state": None, "closes": True, "name": ""}
        good = codec.encode(Application(5, b""))
        failure = self.failureException
        self.assertRaises(failure, self.assert_refused, {**entry, "code": "malformed"}, good)
        realm = {**entry, "conversation": "device to realm", "state": "HERE", "code": "malformed"}
        hello = codec.encode(packets.Hello(self.first))
        self.assertRaises(AssertionError, self.assert_refused, realm, hello)


class RealmTests(TestCase):
    def received(self, items: list[dict[str, Any]], line: Line) -> None:
        data = line.take_bytes()
        decoder = codec.Decoder()
        decoder.receive_data(data)
        for item in items:
            begin = decoder.consumed_bytes
            packet = decoder.next_map()
            assert packet is not None
            if "bytes" in item:
                self.assertEqual(item["bytes"], data[begin : decoder.consumed_bytes].hex())
                continue
            parsed = packets.parse(packet, packets.REALM_TO_DEVICE)
            found = fields_of(parsed)
            if isinstance(parsed, BackHeartbeat):
                del found["nonce"], found["observed_address"]
            self.assertEqual(item["packet"], parsed.title)
            self.assertEqual(value_of(item["fields"]), found)
        self.assertEqual(0, len(data) - decoder.consumed_bytes)

    def test_exchanges(self) -> None:
        for exchange in load("realm.json")["exchanges"]:
            realm = MemoryRealm()
            lines = [realm.join(identity.device_id) for identity in identities()[:2]]
            for step in exchange["steps"]:
                line = lines[step["device"]]
                match step:
                    case {"sends": text}:
                        line.send(bytes.fromhex(text))
                    case {"receives": items}:
                        self.received(items, line)
                    case {"leaves": True}:
                        line.disconnect()
                    case {"revoked": True}:
                        realm.core.access.revoke(device_of(line), lambda is_kept: None)
                        realm.settle()
                    case {"mode": mode}:
                        realm.core.access.set_mode(Mode(mode))
                        realm.settle()
                    case {"closed": True}:
                        self.assertEqual("closed", line.ended)
                    case _:
                        self.fail(f"what is {step}?")


class GroupTests(TestCase):
    """What the realm checks; the device's side has tests of its own."""

    def load(self, entries: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the names of entries, and what they hold as bytes and numbers."""
        return [
            (
                entry.pop("name"),
                {
                    key: bytes.fromhex(value) if isinstance(value, str) else value
                    for key, value in entry.items()
                },
            )
            for entry in load("groups.json")[entries]
        ]

    def test_proofs(self) -> None:
        for name, entry in self.load("proofs"):
            private_key = Ed25519PrivateKey.from_private_bytes(entry.pop("seed"))
            self.assertEqual(entry["key"], private_key.public_key().public_bytes_raw(), name)
            if not entry["epoch"]:
                self.assertEqual(group_id_of(entry["key"]), entry["peer_group"], name)
            entry["group"] = entry.pop("peer_group")
            self.assertTrue(proves(**entry), name)
            self.every_change_is_noticed(proves, entry)

    def test_moves(self) -> None:
        for name, entry in self.load("moves"):
            private_key = Ed25519PrivateKey.from_private_bytes(entry.pop("present_seed"))
            present_key = private_key.public_key().public_bytes_raw()
            self.assertEqual(entry["present_key"], present_key, name)
            entry["group"] = entry.pop("peer_group")
            self.assertTrue(allows_move(**entry), name)
            self.every_change_is_noticed(allows_move, entry)

    def every_change_is_noticed(self, check: Callable[..., bool], entry: dict[str, Any]) -> None:
        for key, value in entry.items():
            changed = value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
            self.assertFalse(check(**{**entry, key: changed}), key)


class RecordingLink:
    """A link to a realm that is up and keeps what is sent."""

    path = DevicePath("realm")
    is_up = True
    max_content_bytes = MAX_PACKET_BYTES - packets.HEADROOM_BYTES
    problem: str | None = None
    observed_address: tuple[str, int] | None = None
    nonce = b""
    refusal: AbstError | None = None
    invitation: str | None = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def invite(self, invitation: str) -> None:
        """Do nothing: it is up."""

    def network_changed(self) -> None:
        """Do nothing: it is up."""

    def flush(self) -> None:
        """Do nothing: it is kept already."""

    def start(self) -> None:
        """Do nothing: it is up."""

    def stop(self) -> Any:
        """Do nothing: there is nothing to close."""
        return succeed(None)

    def send(self, target_device: bytes, content: bytes) -> None:
        """Keep what is sent."""
        self.sent.append(content)

    def ask(self, packet: Packet) -> Deferred[Any]:
        """Do nothing: nobody pairs here, or opens a stream."""
        raise NotImplementedError

    def tell(self, packet: Packet) -> None:
        """Do nothing: nobody pairs here, or opens a stream."""

    def open_leg(self, circuit: packets.Circuit, *, inside_tls: bool = False) -> Deferred[Pipe]:
        """Do nothing: nobody opens a stream here."""
        raise NotImplementedError


class ChannelTests(TestCase):
    def test_contents_are_a_number_and_records(self) -> None:
        for entry in load("channel.json")["contents"]:
            content = bytes.fromhex(entry["content"])
            if entry["channel_number"] is None:
                self.assertRaises(RemoteProtocolError, split_content, content)
                continue
            number, records = split_content(content)
            self.assertEqual(entry["channel_number"], number.hex(), entry["name"])
            self.assertEqual(entry["records"], records.hex(), entry["name"])
            self.assertEqual(entry["accepts"], begins_channel(records), entry["name"])

    def test_what_a_device_answers(self) -> None:
        for entry in load("channel.json")["contents"]:
            own, other = identities()[:2]
            link = RecordingLink()
            device = Device(Clock(), own, DeviceFactory(), make_link=lambda *_, to=link: to)
            device.addRealm(RealmAddress("realm.example.org"))
            device.startService()
            device.content_received(link, other.device_id, bytes.fromhex(entry["content"]))
            answer = [] if entry["answer"] is None else [entry["answer"]]
            self.assertEqual(answer, [sent.hex() for sent in link.sent], entry["name"])
            device.stopService()

    def test_knocks(self) -> None:
        doors = [Door(identity.device_id) for identity in identities()]
        for entry in load("channel.json")["knocks"]:
            device_id, random = map(bytes.fromhex, (entry["device_id"], entry["random"]))
            server_name = entry["server_name"].encode("ascii")
            address = entry.get("address", "")
            self.assertEqual(server_name, knock(device_id, random, address), entry["name"])
            admitted = [door.admits(server_name, [address]) for door in doors]
            own = [identity.device_id == device_id for identity in identities()]
            self.assertEqual(own, admitted, entry["name"])

    def test_sessions_that_are_agreed_on(self) -> None:
        for entry in load("channel.json")["sessions"]:
            proposed, held = map(bytes.fromhex, (entry["proposed"], entry["held"]))
            self.assertEqual(entry["session"], common_session(proposed, held).hex(), entry["name"])
            self.assertEqual(entry["session"], common_session(held, proposed).hex(), entry["name"])


class ErrorTests(TestCase):
    def test_reasons_in_vectors_are_the_tables(self) -> None:
        """A realm may word a reason otherwise; these are the real ones."""
        known = {meaning.sentence for meaning in MEANINGS.values()}
        for entry in load("packets.json")["packets"]:
            if entry["packet"] == Error.title and entry["fields"]["code"] in set(Code):
                reason = entry["fields"]["reason"]
                self.assertTrue(reason in known or "not offered" in reason, reason)
