"""The specification's tables and the code: neither drifts from the other."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from abst import codec, packets, tls
from abst.address import DEFAULT_PORT, MAX_ADDRESS_CHARACTERS, RealmAddress
from abst.agent import packets as agent_packets
from abst.agent import records
from abst.agent.files import drafts, heartbeat, shipment
from abst.agent.files import packets as file_packets
from abst.agent.files import receiver as file_receiver
from abst.agent.files import sender as file_sender
from abst.device import (
    arrivals,
    backoff,
    channel,
    connection,
    dialling,
    key_check,
    knock,
    leg_pipe,
    pairing,
    pairing_attempt,
    paths,
    realm_client,
    session,
    ways,
)
from abst.device import device as device_module
from abst.device.pairing import Input, Role, Step
from abst.device.pairing import State as PairingState
from abst.device.streams import dial, opening, streams
from abst.errors import MEANINGS, AddressError, Code
from abst.packets import (
    BackHeartbeat,
    Circuit,
    ConnectToDevice,
    Error,
    FindWindow,
    GroupMembers,
    GroupMessage,
    Hello,
    HereInGroup,
    LeaveGroup,
    Leg,
    OpenWindow,
    Packet,
    Send,
    WatchingValues,
    WatchValues,
    WindowOpened,
)
from abst.realm import access, circuits, conversation, drops, news, outbox
from abst.realm.access import Mode
from abst.realm.conversation import State
from abst.realm.limits import Limits
from abst.realm.realm import RESTART_SPREAD_CONNECTIONS_PER_SECOND
from tests.realm.group_members import Keys, SlowStore, message
from tests.realm.memory_realm import ALICE, BOB, NOBODY, Line, MemoryLeg, MemoryRealm, send

KEYS = Keys(b"garden")
SPEC = Path(__file__).parent.parent / "docs" / "spec"

Row = dict[str, str]
Numbers = dict[str, float]

_HEADING = re.compile(r"^#{2,6} +(.*?) *$")
_PACKET = re.compile(
    r"(.+) \((device to realm|realm to device|.+ and .+|leg to realm|device to device"
    r"|stream dialler|stream acceptor), id (\d+)\)"
)


def page(name: str) -> str:
    """Return the text of a page."""
    return (SPEC / name).read_text("utf-8")


def tables(text: str) -> list[tuple[str, list[Row]]]:
    """Return every table of a page with the heading that it stands under."""
    found: list[tuple[str, list[Row]]] = []
    heading = ""
    names: list[str] | None = None
    for line in text.splitlines():
        if match := _HEADING.match(line):
            heading = match[1]
        if not line.startswith("|"):
            names = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if names is None:
            names = cells
            found.append((heading, []))
        elif not set("".join(cells)) <= set("-: "):
            assert len(cells) == len(names), line
            found[-1][1].append(dict(zip(names, cells, strict=True)))
    return found


def table(text: str, heading: str, *columns: str) -> list[Row]:
    """Return the one table under a heading that has these columns."""
    (found,) = (
        rows for title, rows in tables(text) if title == heading and set(columns) <= set(rows[0])
    )
    return found


def plain(cell: str) -> str:
    """Return a cell without the marks of code."""
    return cell.strip("`")


def numbers(text: str, heading: str, name: str = "number") -> Numbers:
    """Return the numbers of a table by what they are; of "65536, or ..." the number counts."""
    rows = table(text, heading, name, "value")
    return {row[name]: float(row["value"].split(",")[0]) for row in rows}


class PacketTests(TestCase):
    def kinds(self) -> dict[tuple[str, int], type[Packet]]:
        """Return every packet by conversation and id."""
        conversations = {
            "device to realm": packets.DEVICE_TO_REALM,
            "realm to device": packets.REALM_TO_DEVICE,
            "leg to realm": packets.LEG_TO_REALM,
            "device to device": packets.DEVICE_TO_DEVICE,
            "stream dialler": packets.STREAM_DIALLER,
            "stream acceptor": packets.STREAM_ACCEPTOR,
        }
        return {
            (name, packet_id): kind
            for name, known in conversations.items()
            for packet_id, kind in known.items()
        }

    def test_every_packet_has_its_table(self) -> None:
        kinds = self.kinds()
        seen = set()
        for heading, rows in tables(page("packets.md")):
            match = _PACKET.fullmatch(heading)
            if match is None:
                continue
            for name in match[2].split(" and "):
                kind = kinds[name, int(match[3])]
                seen.add((name, int(match[3])))
                self.assertEqual(kind.title, match[1])
                expected = [(item, "envelope") for item in kind.envelope]
                expected += [(item, "content") for item in kind.body]
                written = [
                    {
                        "field": f"`{item.name}`",
                        "where": where,
                        "type": item.type,
                        "required": "yes" if item.required else "no",
                    }
                    for item, where in expected
                ]
                self.assertTrue(all(row["meaning"] for row in rows), heading)
                read = [{name: row[name] for name in written[0]} for row in rows]
                self.assertEqual(written, read, heading)
        self.assertEqual(set(kinds), seen)

    def test_limits_of_encoding(self) -> None:
        rows = table(page("packets.md"), "Encoding", "limit", "value", "code")
        values = [float(row["value"].split(",")[0]) for row in rows]
        expected: list[float] = [
            packets.MAX_PACKET_BYTES,
            packets.MAX_VALUE_PACKET_BYTES,
            packets.MAX_PACKET_BYTES_BEFORE_HELLO,
            codec.MAX_MAP_ITEMS,
            codec.MAX_ARRAY_ITEMS,
            codec.MAX_DEPTH,
        ]
        self.assertEqual(expected, values)
        codes = [Code(plain(row["code"])) for row in rows]
        self.assertEqual([Code.TOO_LARGE] * 5 + [Code.MALFORMED], codes)

    def test_the_canonical_forms(self) -> None:
        """The lines in the specification, read as bytes, are what the encoder makes."""
        lines = page("packets.md").split("```")[1].split("\n")
        encoded = [codec.encode(kind(ALICE, ALICE, b"x")) for kind in (Send, GroupMessage)]
        self.assertEqual(encoded, [self.bytes_of(line) for line in lines if line])

    def bytes_of(self, block: str) -> bytes:
        """Return the bytes that a line of hexadecimal numbers, texts and names of bytes means."""
        head = b""
        for token in re.findall(r'"\w+"|<[^>]+>|[0-9a-f]{2}(?![0-9a-z])', block):
            if token.startswith('"'):
                head += token.strip('"').encode()
            elif token.startswith("<"):
                head += {"<16 bytes>": ALICE, "<bin>": b"\xc4\x01x"}[token]
            else:
                head += bytes.fromhex(token)
        return head


DEVICE_CODES = {
    Code.WRONG_SECRET,
    Code.NOT_CONFIRMED,
    Code.NOT_STORED,
    Code.PAIRING_LATE,
    Code.PAIRING_REFUSED,
    Code.WRONG_PAIRING,
    Code.NO_SERVICE,
    Code.NOT_ADMITTED,
}
"""What one device tells another, or its owner; no realm sends them."""


class PairingTests(TestCase):
    def test_the_steps_are_the_codes_own(self) -> None:
        """Every row of the table is legal, and every legal step has its row."""
        legal: set[tuple[Role, PairingState, Step | Input]] = set()
        inputs = {
            "start": Input.START,
            "the person says yes": Input.YES,
            "the pairing is on disk": Input.KEPT,
        }
        for row in table(page("pairing.md"), "The steps", "role", "next state"):
            said = row["what happens"]
            what = inputs[said] if said in inputs else Step(plain(said.split(" of ")[0]))
            for role in Role if row["role"] == "both" else [Role(row["role"])]:
                legal.add((role, PairingState[row["state"]], what))
            PairingState[row["next state"]]
        self.assertEqual(set(pairing.TABLE), legal)

    def test_the_fields_of_the_steps(self) -> None:
        rows = table(page("pairing.md"), "The steps", "step", "fields, beside `step`")
        self.assertEqual([str(step) for step in Step], [plain(row["step"]) for row in rows])
        named = {
            name for row in rows for name in re.findall(r"`(\w+)`", row["fields, beside `step`"])
        }
        self.assertEqual({item.name for item in packets.PairProcess.body} - {"step"}, named)

    def test_numbers(self) -> None:
        expected: Numbers = {
            "seconds for one attempt to pair": pairing.PAIRING_SECONDS,
            "bytes of a nonce": pairing.NONCE_BYTES,
            "bytes of a link's secret": pairing.LINK_SECRET_BYTES,
            "bytes of a pairing key": pairing.KEY_BYTES,
            "realms in a link, at most": pairing_attempt.MAX_LINK_REALMS,
        }
        self.assertEqual(expected, numbers(page("pairing.md"), "Numbers"))

    def test_names(self) -> None:
        self.assertIn(f"`{pairing_attempt.LINK_SCHEME}", page("pairing.md"))
        for label in (key_check._DIALLER, key_check._ACCEPTOR, b"ABST trust 1"):
            self.assertIn(label.decode(), page("channel.md"))


class RealmTests(TestCase):
    def test_errors(self) -> None:
        rows = table(page("realm.md"), "Errors", "code", "sent when")
        codes = [str(code) for code in Code if code not in DEVICE_CODES]
        self.assertEqual(codes, [plain(row["code"]) for row in rows])
        for row in rows:
            meaning = MEANINGS[Code(plain(row["code"]))]
            self.assertEqual("yes" if meaning.closes else "no", row["closes"], row)
            self.assertEqual(meaning.sentence, row["meaning"])
            self.assertEqual(meaning.remedy, row["remedy"])
            self.assertTrue(row["sent when"])

    def test_refused_pairings(self) -> None:
        rows = table(page("pairing.md"), "Refusals", "code", "said when")
        of_streams = {Code.NO_SERVICE, Code.NOT_ADMITTED}
        of_pairings = {Code.NO_WINDOW, *DEVICE_CODES} - of_streams
        codes = [str(code) for code in Code if code in of_pairings]
        self.assertEqual(codes, [plain(row["code"]) for row in rows])
        for row in rows:
            meaning = MEANINGS[Code(plain(row["code"]))]
            self.assertEqual(meaning.sentence, row["meaning"])
            self.assertEqual(meaning.remedy, row["remedy"])
            self.assertTrue(row["said when"])

    def test_limits(self) -> None:
        """Each stands on the page of what it limits."""
        written: Numbers = {}
        for name in ("realm.md", "groups.md", "values.md"):
            rows = table(page(name), "Limits", "limit", "default")
            written.update({plain(row["limit"]): float(row["default"]) for row in rows})
        self.assertEqual(dataclasses.asdict(Limits()), written)
        self.assertEqual({item.name for item in dataclasses.fields(Limits)}, set(written))

    def test_limits_of_groups_are_told(self) -> None:
        told: Numbers = {}
        for name in ("groups.md", "values.md"):
            for row in table(page(name), "Limits", "limit", "told as"):
                if row["told as"]:
                    told[plain(row["told as"])] = float(row["default"])
        realm = MemoryRealm()
        line = realm.join(ALICE)
        line.send(KEYS.create(line), KEYS.join(line))
        (_, answer) = line.take()
        assert isinstance(answer, GroupMembers)
        self.assertEqual(told, answer.limits)

    def test_told_limits_are_told(self) -> None:
        rows = table(page("realm.md"), "Limits", "limit", "told")
        told = {plain(row["limit"]) for row in rows if "yes" in row["told"].split(", ")}
        line = MemoryRealm().connect(ALICE)
        line.send(Hello(ALICE))
        (answer,) = line.take()
        assert isinstance(answer, BackHeartbeat)
        beside = {"device_groups", "group_requests_per_minute"}
        self.assertIn("`device_groups` and `group_requests_per_minute` beside", page("realm.md"))
        self.assertEqual(told | beside, {*answer.limits, "heartbeat_seconds"})

    def test_limits_of_circuits_are_told(self) -> None:
        rows = table(page("realm.md"), "Limits", "limit", "told")
        told = {plain(row["limit"]) for row in rows if "circuit" in row["told"].split(", ")}
        realm = MemoryRealm()
        alice, bob = realm.join(ALICE), realm.join(BOB)
        alice.send(ConnectToDevice(ALICE, BOB))
        for line in (alice, bob):
            (circuit,) = line.take()
            assert isinstance(circuit, Circuit)
            self.assertEqual(told, set(circuit.limits))
            self.assertEqual(Limits().circuit_meet_seconds, circuit.seconds)

    def test_numbers_of_circuits(self) -> None:
        expected: Numbers = {
            "bytes of a token": packets.TOKEN_BYTES,
            "bytes of a circuit's name": packets.CIRCUIT_ID_BYTES,
            "bytes of the packet that a leg begins with, at most": packets.MAX_LEG_BYTES,
            "`retry_after` of `circuits_full`, seconds": circuits.FULL_RETRY_SECONDS,
        }
        self.assertEqual(expected, numbers(page("circuits.md"), "Numbers"))

    def test_modes_of_access(self) -> None:
        rows = table(page("access.md"), "Three modes", "mode", "who may be here")
        self.assertEqual([str(mode) for mode in access.Mode], [plain(row["mode"]) for row in rows])

    def test_numbers_of_access(self) -> None:
        expected: Numbers = {
            "bytes of an invitation": access.TOKEN_BYTES,
            "`retry_after` of the refusals above, seconds": conversation.ACCESS_RETRY_SECONDS,
            "devices on the list for invitations to let in more, at most": access.MAX_DEVICES,
            "invitations, at most": access.MAX_INVITATIONS,
        }
        self.assertEqual(expected, numbers(page("access.md"), "Numbers"))

    def test_numbers_of_streams(self) -> None:
        expected: Numbers = {
            "seconds from the connection to the answer to Open stream, for handshake and opening": (
                opening.OPENING_SECONDS
            ),
            "seconds of Circuit that a device counts with, at most": (leg_pipe.MAX_MEETING_SECONDS),
            "seconds for all tries together": dial.DIAL_SECONDS,
            "streams that a peer has opened, at once": streams.MAX_STREAMS_OF_PEER,
            "part of a device's circuits that one peer may have": streams.PEER_SHARE,
            "seconds that what is less likely is tried later": dial.LAG_SECONDS,
            "seconds for which the way of the last stream counts as likely": streams.LATELY_SECONDS,
            "bytes of the packet that a stream begins with, at most": (opening.MAX_OPENING_BYTES),
        }
        self.assertEqual(expected, numbers(page("streams.md"), "Numbers"))

    def test_numbers(self) -> None:
        expected: Numbers = {
            "bytes in the queue of answers for one device": outbox.MAX_CONTROL_BYTES,
            "bytes in each queue that only what the realm says of values may use": (
                conversation.OWN_ROOM_BYTES
            ),
            "seconds in which replacements are counted for an identity conflict": (
                conversation.CONFLICT_WINDOW_SECONDS
            ),
            "replacements that make an identity conflict": conversation.CONFLICT_REPLACEMENTS,
            "`retry_after` of an identity conflict, seconds": conversation.CONFLICT_RETRY_SECONDS,
            "`retry_after` of `replaced`, seconds": conversation.REPLACED_RETRY_SECONDS,
            "`retry_after` of `realm_full`, seconds": conversation.FULL_RETRY_SECONDS,
            "`retry_after` of `too_many_connections`, seconds": (
                conversation.TOO_MANY_RETRY_SECONDS
            ),
            "different reports of drops that wait for one device": drops.MAX_REPORTED_TARGETS,
            "answers to Join that wait for one device": news.MAX_WAITING_ANSWERS,
            "connections told to come back in each second of a restart": (
                RESTART_SPREAD_CONNECTIONS_PER_SECOND
            ),
            "seconds that a device waits for the first answer": realm_client.ANSWER_SECONDS,
            "heartbeats that a device misses before it gives up": realm_client.MISSED_HEARTBEATS,
            "first bound of the wait before connecting again, seconds": backoff.FIRST_WAIT_SECONDS,
            "factor from one bound to the next": backoff.WAIT_FACTOR,
            "largest bound, seconds": backoff.MAX_WAIT_SECONDS,
            "seconds after which the bounds begin again": backoff.STABLE_SECONDS,
        }
        self.assertEqual(expected, numbers(page("realm.md"), "Limits"))


class OtherTests(TestCase):
    def test_numbers_of_the_channel(self) -> None:
        expected: Numbers = {
            "bytes of a channel number": packets.CHANNEL_NUMBER_BYTES,
            "bytes of a session's ID": packets.SESSION_ID_BYTES,
            "bytes that a Send takes beside its content, at most": packets.HEADROOM_BYTES,
            "bytes of one packet inside a channel, at most": packets.MAX_PACKET_BYTES,
            "seconds for handshake, Hello exchange and Key check": channel.HANDSHAKE_SECONDS,
            "seconds without anything sent before a Heartbeat": paths.HEARTBEAT_SECONDS,
            "seconds that the device with the higher ID waits longer": paths.FOLLOWER_SECONDS,
            "seconds without anything received before a channel is given up": paths.DEAD_SECONDS,
            "seconds for an answer, at least": paths.LEAST_PATIENCE_SECONDS,
            "more seconds for an answer while there is no doubt": paths.SPARE_PATIENCE_SECONDS,
            "missing answers after which a path is suspect": paths.MISSES,
            "round trips that prove a path": paths.PROOFS,
            "seconds that a path rests that was suspect, at first": paths.REST_SECONDS,
            "seconds that a path rests that was suspect, at most": paths.MAX_REST_SECONDS,
            "seconds that an older path stays after a move": ways.GRACE_SECONDS,
            "seconds that the realm is dialled later than a direct address": (
                dialling.REALM_LAG_SECONDS
            ),
            "seconds between tries of direct addresses while a realm is used": (
                dialling.DIRECT_RETRY_SECONDS
            ),
            "seconds without a use after which a path is closed": connection.IDLE_SECONDS,
            "the same, when only Hello was said": connection.HELLO_SECONDS,
            "knocks that are remembered, at least": knock.MAX_REMEMBERED,
            "direct connections that have not proved a key, in all": arrivals.MAX_ARRIVALS,
            "the same, from one address": arrivals.MAX_ARRIVALS_PER_HOST,
            "bytes of application packets in flight, at most": session.MAX_IN_FLIGHT_BYTES,
            "seconds that a session waits for a channel, by default": connection.SESSION_SECONDS,
            "channels of strangers at once": device_module.MAX_STRANGERS,
        }
        self.assertEqual(expected, numbers(page("channel.md"), "Numbers"))

    def test_the_agents_packets(self) -> None:
        """The last right value of each field holds, the first wrong one does not."""
        found: dict[int, list[str]] = {}
        for row in table(page("agent.md"), "Packets", "id", "field", "type"):
            name = plain(row["field"])
            holds = agent_packets.FIELDS[int(row["id"])][name]
            found.setdefault(int(row["id"]), []).append(name)
            right, wrong = self.boundaries(row["type"])
            self.assertEqual([True] * len(right), [holds(value) for value in right], row)
            self.assertEqual([False] * len(wrong), [holds(value) for value in wrong], row)
        found[agent_packets.NOTHING] = []
        self.assertIn(f"Id {agent_packets.NOTHING}, Nothing, has no fields", page("agent.md"))
        self.assertEqual({key: list(fields) for key, fields in agent_packets.FIELDS.items()}, found)

    def test_the_packets_of_files(self) -> None:
        """Names, types and directions; the last right value holds, the first wrong one does not."""
        found: dict[int, list[str]] = {}
        ways: dict[str, set[int]] = {"sender": set(), "receiver": set()}
        for row in table(page("agent.md"), "Packets of files", "id", "from", "field", "type"):
            packet_id = int(row["id"])
            for way in ("sender", "receiver") if row["from"] == "both" else (row["from"],):
                ways[way].add(packet_id)
            names = found.setdefault(packet_id, [])
            if not row["field"]:
                continue
            names.append(plain(row["field"]))
            field = file_packets.FIELDS[packet_id][len(names) - 1]
            self.assertEqual((field.name, field.type), (names[-1], row["type"]))
            right, wrong = self.boundaries(row["type"])
            self.assertEqual([True] * len(right), [field.holds(value) for value in right], row)
            self.assertEqual([False] * len(wrong), [field.holds(value) for value in wrong], row)
        fields = file_packets.FIELDS.items()
        self.assertEqual({key: [field.name for field in kind] for key, kind in fields}, found)
        known = {"sender": file_packets.FROM_SENDER, "receiver": file_packets.FROM_RECEIVER}
        self.assertEqual(known, ways)

    def test_numbers_of_files(self) -> None:
        silent_seconds = (heartbeat.MAX_SILENT_TURNS) * heartbeat.ALIVE_SECONDS
        expected: Numbers = {
            "bytes of a packet, at most": file_packets.MAX_PACKET_BYTES,
            "bytes behind one packet Bytes, at most": file_packets.BLOCK_BYTES,
            "items of one stream without an answer, at most": file_sender.MAX_UNANSWERED,
            "transfers that a receiver remembers of each sender after they are over": (
                records.MAX_ARRIVED
            ),
            "unfinished transfers that a receiver keeps of one sender; the oldest gives way": (
                file_packets.MAX_UNFINISHED
            ),
            "seconds that an unfinished transfer is kept": drafts.MAX_IDLE_SECONDS,
            "streams that a receiver takes from one sender at once": (
                file_receiver.MAX_STREAMS_FROM_ONE
            ),
            "streams that a receiver takes at once": file_receiver.MAX_STREAMS,
            "seconds after which whoever has said nothing says Alive": heartbeat.ALIVE_SECONDS,
            "seconds of silence after which a stream is given up": silent_seconds,
            "first wait before another stream is opened, seconds": shipment.FIRST_WAIT_SECONDS,
            "factor from one wait to the next": shipment.WAIT_FACTOR,
            "longest wait, seconds": shipment.MAX_WAIT_SECONDS,
        }
        self.assertEqual(expected, numbers(page("agent.md"), "Limits"))

    def boundaries(self, kind: str) -> tuple[list[Any], list[Any]]:
        """Return the last right values of a type, and the first wrong ones."""
        if match := re.fullmatch(r"str, at most (\d+) characters", kind):
            return ["", "x" * int(match[1])], ["x" * (int(match[1]) + 1), b"", None]
        if match := re.fullmatch(r"bin, (\d+) bytes", kind):
            size = int(match[1])
            return [bytes(size)], [bytes(size - 1), bytes(size + 1), "x" * size]
        if match := re.fullmatch(r"uint, at most (\d+)(?:\^(\d+))?", kind):
            most = int(match[1]) ** int(match[2] or 1)
            return [0, most], [-1, most + 1, 1.0, True]
        if match := re.fullmatch(r"uint, (\d+) to (\d+)", kind):
            least, most = int(match[1]), int(match[2])
            return [least, most], [least - 1, most + 1, 1.0, True]
        if match := re.fullmatch(r"int, more than -2\^(\d+) and less than 2\^(\d+)", kind):
            least, most = -(2 ** int(match[1])), 2 ** int(match[2])
            return [least + 1, 0, most - 1], [least, most, 1.0, True]
        if match := re.fullmatch(r"array of at most (\d+) bin, each (\d+) bytes", kind):
            most, item = int(match[1]), bytes(int(match[2]))
            return [[], [item] * most], [[item] * (most + 1), [item[1:]], ["x"], None]
        if match := re.fullmatch(
            r"array of at most (\d+) str, each 1 to (\d+) characters, "
            r"together at most (\d+) bytes",
            kind,
        ):
            parts, longest, most = int(match[1]), "x" * int(match[2]), int(match[3])
            whole = [longest] * (most // (len(longest) + 1))
            right = [[], ["x"] * parts, whole]
            return right, [["x"] * (parts + 1), [longest + "x"], [""], [*whole, "x"], [b"x"], None]
        return {"bool": ([True, False], [0, None, "true"])}[kind]

    def test_names_of_tls(self) -> None:
        self.assertIn(f"`{tls.REALM_ALPN.decode()}`", page("realm.md"))
        self.assertIn(f"`{tls.DEVICE_ALPN.decode()}`", page("channel.md"))
        self.assertIn(f"`{tls.EXPORTER_LABEL.decode()}`", page("channel.md"))
        self.assertIn(f"{tls.EXPORTER_BYTES} bytes of\n  output", page("channel.md"))

    def test_the_port(self) -> None:
        for name in ("identity.md", "realm.md"):
            self.assertEqual({str(DEFAULT_PORT)}, set(re.findall(r"\b42\d{3}\b", page(name))))

    def test_the_longest_address(self) -> None:
        most = re.search(r"At most (\d+) characters", page("identity.md"))
        assert most is not None
        self.assertEqual(MAX_ADDRESS_CHARACTERS, int(most[1]))
        text = "abst://a/"
        RealmAddress.parse(text)
        too_long = text + "?" + "x" * MAX_ADDRESS_CHARACTERS
        self.assertRaises(AddressError, RealmAddress.parse, too_long)

    def test_words_are_in_order_and_explained_once(self) -> None:
        words = [row["word"] for row in table(page("README.md"), "Words", "word", "meaning")]
        self.assertEqual(sorted(words, key=str.lower), words)
        self.assertEqual(len(set(words)), len(words))


# The rows of the table of states, played to a realm. Each is given a line in the state of its row.

CIRCUIT_BYTES = 1_000_000
SMALL = Limits(queue_bytes=131072, connections=1)


def _hello_in(mode: Mode, invitation: str | None = None) -> Callable[[MemoryRealm, Line], None]:
    """Return what says Hello to a realm of a mode."""

    def say(realm: MemoryRealm, line: Line) -> None:
        realm.core.access.set_mode(mode)
        line.send(Hello(ALICE, invitation=invitation))

    return say


def _revoked(realm: MemoryRealm, line: Line) -> None:
    realm.core.access.revoke(ALICE, lambda is_kept: None)
    realm.settle()
    line.send(Hello(ALICE))


def _not_let_in(realm: MemoryRealm, line: Line) -> None:
    store = realm.core.store
    assert isinstance(store, SlowStore)
    store.is_slow = True
    realm.core.access.allow(ALICE, "", lambda is_kept: None)
    realm.core.access.set_mode(Mode.INVITED)
    store.answer_access(is_kept=False)
    realm.settle()


def _too_many(realm: MemoryRealm, line: Line) -> None:
    for _ in range(Limits().device_connections - 1):
        realm.connect(ALICE)
    realm.settle()
    assert line.conversation.state is State.AWAITING_HELLO
    one_more = realm.connect(ALICE)
    realm.settle()
    line.received, line.ended = one_more.received, one_more.ended
    line.conversation = one_more.conversation


def _over_volume(*what: bytes | Packet) -> Callable[[MemoryRealm, Line], None]:
    """Return what sends something to a realm that lets nobody send anything."""

    def send_it(realm: MemoryRealm, line: Line) -> None:
        realm.core.use_limits(dataclasses.replace(realm.core.limits, device_bytes_per_month=1))
        line.send(*what)

    return send_it


def _full(realm: MemoryRealm, line: Line) -> None:
    realm.connect(NOBODY)
    line.send(Hello(ALICE))


def _queue_full(realm: MemoryRealm, line: Line) -> None:
    bob = realm.join(BOB)
    bob.stop_reading()
    for _ in range(4):
        line.send(send(ALICE, BOB, bytes(60000)))


def _goes_away(realm: MemoryRealm, line: Line) -> None:
    bob = realm.join(BOB)
    bob.stop_reading()
    line.send(send(ALICE, BOB, b"1"), send(ALICE, BOB, b"2"))
    bob.disconnect()


def _delivered(realm: MemoryRealm, line: Line) -> None:
    bob = realm.join(BOB)
    packet = send(ALICE, BOB, b"sealed")
    line.send(packet)
    assert bob.take_bytes() == packet


def _does_not_read(realm: MemoryRealm, line: Line) -> None:
    line.stop_reading()
    realm.join(BOB).send(send(BOB, ALICE, b"x"))
    for _ in range(3):
        line.send(Hello(ALICE))
        realm.advance(5.0)


def _asks_and_does_not_read(realm: MemoryRealm, line: Line) -> None:
    line.stop_reading()
    realm.join(BOB).send(send(BOB, ALICE, b"x"))
    while line.conversation.state is State.HERE:
        line.send(Hello(ALICE))
    line.read()


def _replaced(realm: MemoryRealm, line: Line) -> None:
    realm.connect(ALICE).send(Hello(ALICE))


def _stops(realm: MemoryRealm, line: Line) -> None:
    realm.core.announce_restart()
    realm.settle()


def _find(realm: MemoryRealm, line: Line) -> None:
    bob = realm.join(BOB)
    bob.send(OpenWindow())
    (opened,) = bob.take()
    assert isinstance(opened, WindowOpened)
    line.send(FindWindow(opened.number))


def _asks_too_often(realm: MemoryRealm, line: Line) -> None:
    for _ in range(Limits().pairing_requests_per_minute):
        line.send(OpenWindow())
    line.take()
    line.send(OpenWindow())


def _circuit(realm: MemoryRealm, line: Line) -> tuple[list[MemoryLeg], Circuit]:
    """Make a circuit that the line's device has asked for; return no leg yet, and its offer."""
    bob = realm.join(BOB)
    line.send(ConnectToDevice(ALICE, BOB))
    (offer,) = line.take()
    (other,) = bob.take()
    assert isinstance(offer, Circuit)
    assert isinstance(other, Circuit)
    return [MemoryLeg(realm, offer.token), MemoryLeg(realm, other.token)], offer


def _connect(realm: MemoryRealm, line: Line) -> None:
    bob = realm.join(BOB)
    line.send(ConnectToDevice(ALICE, BOB))
    (offer,) = bob.take()
    assert isinstance(offer, Circuit)


def _too_many_circuits(realm: MemoryRealm, line: Line) -> None:
    realm.join(BOB)
    for _ in range(Limits().device_circuits + 1):
        line.take()
        line.send(ConnectToDevice(ALICE, BOB))


def _connects_too_often(realm: MemoryRealm, line: Line) -> None:
    for _ in range(Limits().circuit_requests_per_minute):
        line.send(ConnectToDevice(ALICE, NOBODY))
    line.take()
    line.send(ConnectToDevice(ALICE, NOBODY))


def _refuses(realm: MemoryRealm, line: Line) -> None:
    bob = realm.join(BOB)
    line.send(ConnectToDevice(ALICE, BOB))
    (offer,) = line.take()
    assert isinstance(offer, Circuit)
    leg = MemoryLeg(realm, offer.token)
    leg.come()
    bob.send(Error("circuit_refused", "no", about=1, circuit=offer.circuit))
    line.received += leg.said


def _gives_back(realm: MemoryRealm, line: Line) -> None:
    (_, leg), offer = _circuit(realm, line)
    leg.come()
    line.send(Error("circuit_refused", "not any more", about=1, circuit=offer.circuit))
    line.received += leg.said


def _is_unanswered(realm: MemoryRealm, line: Line) -> None:
    (leg, _), _ = _circuit(realm, line)
    leg.come()
    realm.advance(Limits().circuit_meet_seconds)
    line.received += leg.said


def _joined(realm: MemoryRealm, line: Line) -> MemoryLeg:
    legs, _ = _circuit(realm, line)
    for leg in legs:
        leg.come()
    line.take()
    return legs[0]


def _idle(realm: MemoryRealm, line: Line) -> None:
    leg = _joined(realm, line)
    realm.core.deadlines.clear()  # The line's own silence, too.
    assert leg.seat is not None
    leg.seat.circuit._look_for_idle(realm.now + Limits().circuit_idle_seconds)
    realm.settle()
    assert leg.was_reset


def _spent(realm: MemoryRealm, line: Line) -> None:
    leg = _joined(realm, line)
    assert leg.seat is not None
    leg.seat.circuit.count(CIRCUIT_BYTES + 1, realm.now)
    realm.settle()
    assert leg.was_reset


def _becomes_a_leg(realm: MemoryRealm, line: Line) -> None:
    asker = realm.join(ALICE)
    realm.join(BOB)
    asker.send(ConnectToDevice(ALICE, BOB))
    (offer,) = asker.take()
    assert isinstance(offer, Circuit)
    line.send(Leg(offer.token))
    assert line.conversation.seat is not None
    line.ended = "a leg"


EVENTS: dict[str, Callable[[MemoryRealm, Line], None]] = {
    "Hello": lambda realm, line: line.send(Hello(ALICE)),
    "Hello with another device's ID": lambda realm, line: line.send(Hello(BOB)),
    "Hello with version 0": lambda realm, line: line.send(Hello(ALICE, version=0)),
    "Hello when the realm is full": _full,
    "Hello of a device that has not been invited": _hello_in(Mode.INVITED),
    "Hello with an invitation that is not good": _hello_in(Mode.INVITED, "A" * 22),
    "Hello of a device that is not on the list": _hello_in(Mode.LISTED),
    "Hello of a device that was revoked": _revoked,
    "the certificate proves a device with too many connections": _too_many,
    "the device is [revoked](access.md#revoking)": _revoked,
    "the disk does not take [what has let it in](access.md#invitations)": _not_let_in,
    "Send, when a month's bytes are spent": _over_volume(send(ALICE, BOB, b"x")),
    "a request, when a month's bytes are spent": _over_volume(OpenWindow()),
    "a packet with any other id": lambda realm, line: line.send(send(ALICE, BOB, b"")),
    "bytes that are no packet": lambda realm, line: line.send(b"\xc1"),
    "a packet over `hello_packet_bytes`": lambda realm, line: line.send(
        b"\x81\xa1a\xc5\x0f\xff" + bytes(4095)
    ),
    "Leg with a token of this device": _becomes_a_leg,
    "Leg with any other token": lambda realm, line: line.send(Leg(bytes(32))),
    "`hello_seconds` have passed": lambda realm, line: realm.advance(10.0),
    "the realm stops": _stops,
    "Send to a device that is here": _delivered,
    "Send to a device that is not here": lambda realm, line: line.send(send(ALICE, NOBODY, b"")),
    "Send to a device whose queue is full": _queue_full,
    "a device goes away before it has read a Send": _goes_away,
    "Open pairing window": lambda realm, line: line.send(OpenWindow()),
    "Open pairing window with `close`": lambda realm, line: line.send(OpenWindow(close=True)),
    "Find pairing window with the number of one": _find,
    "Find pairing window with another number": lambda realm, line: line.send(FindWindow(7)),
    "Open or Find pairing window too often": _asks_too_often,
    "Connect to device, to a device that is here": _connect,
    "Connect to device, to a device that is not here": lambda realm, line: line.send(
        ConnectToDevice(ALICE, NOBODY)
    ),
    "Connect to device, with too many circuits": _too_many_circuits,
    "Connect to device too often": _connects_too_often,
    "Error `circuit_refused` from the circuit's target": _refuses,
    "Error of any other kind": lambda realm, line: line.send(Error("later", "what")),
    "Error `circuit_refused` from the circuit's asker": _gives_back,
    "the other leg of its circuit does not come": _is_unanswered,
    "its circuit is idle for `circuit_idle_seconds`": _idle,
    "its circuit has carried what it may": _spent,
    "Send from another source": lambda realm, line: line.send(send(BOB, ALICE, b"")),
    "Connect to device from another source": lambda realm, line: line.send(
        ConnectToDevice(BOB, ALICE)
    ),
    "a packet with an unknown id": lambda realm, line: line.send(b"\x81\xa9packet_id\x1e"),
    "a packet over `packet_bytes`, or over 69632 when it is about values": lambda realm, line: (
        line.send(send(ALICE, BOB, bytes(65000))[:-65003] + b"\xc6\x00\x01\x00\x00")
    ),
    "nothing came for `silence_seconds`": lambda realm, line: realm.advance(35.0),
    "the device reads nothing for `stall_seconds`": _does_not_read,
    "the device asks for more answers than it reads": _asks_and_does_not_read,
    "a newer connection of the same device says Hello": _replaced,
    "anything": lambda realm, line: line.send(Hello(ALICE), b"\xc1", send(ALICE, BOB, b"")),
}


def _not_kept(realm: MemoryRealm, line: Line) -> None:
    store = realm.core.store
    assert isinstance(store, SlowStore)
    store.is_slow = True
    line.send(KEYS.create(line))
    store.answer(is_kept=False)
    realm.settle()


def _make(realm: MemoryRealm, line: Line) -> None:
    line.send(KEYS.create(line))
    line.take()


def _join(realm: MemoryRealm, line: Line, changes: dict[str, Any] | None = None) -> None:
    _make(realm, line)
    line.send(dataclasses.replace(KEYS.join(line), **(changes or {})))


def _join_too_many(realm: MemoryRealm, line: Line) -> None:
    others = Keys(b"others")
    bob = realm.join(BOB)
    bob.send(others.create(bob))
    _join(realm, line)
    line.take()
    line.send(others.join(line))


def _groups_too_often(realm: MemoryRealm, line: Line) -> None:
    for _ in range(Limits().group_requests_per_minute):
        line.send(LeaveGroup(KEYS.group))
    line.take()
    line.send(LeaveGroup(KEYS.group))


def _both_joined(realm: MemoryRealm, line: Line) -> Line:
    """Return the line of another member of a group; nobody has anything left to read."""
    _join(realm, line)
    bob = realm.join(BOB)
    bob.send(KEYS.join(bob))
    bob.take()
    return bob


def _another_joins(realm: MemoryRealm, line: Line) -> None:
    _join(realm, line)
    line.take()
    bob = realm.join(BOB)
    bob.send(KEYS.join(bob))


def _another_does(realm: MemoryRealm, line: Line, what: Callable[[Line], object]) -> None:
    bob = _both_joined(realm, line)
    line.take()
    what(bob)


def _message(realm: MemoryRealm, line: Line) -> None:
    bob = _both_joined(realm, line)
    line.take()
    packet = message(ALICE, KEYS.group, b"sealed")
    line.send(packet)
    assert bob.take_bytes() == packet


EVENTS.update(
    {
        "Create peer group, with a right proof": lambda realm, line: line.send(KEYS.create(line)),
        "Create peer group, that the disk does not take": _not_kept,
        "Join peer group, with a right proof": _join,
        "Join peer group, with a wrong proof": lambda realm, line: _join(
            realm, line, {"proof": bytes(64)}
        ),
        "Join peer group, of another epoch": lambda realm, line: _join(realm, line, {"epoch": 1}),
        "Join peer group, that is not there": lambda realm, line: line.send(KEYS.join(line)),
        "Join peer group, with too many joined": _join_too_many,
        "Create, Join, I am here or Leave too often": _groups_too_often,
        "another device joins a group that this one has joined": _another_joins,
        "another device says I am here there": lambda realm, line: _another_does(
            realm, line, lambda bob: bob.send(HereInGroup(KEYS.group))
        ),
        "another device leaves it, or goes away": lambda realm, line: _another_does(
            realm, line, Line.disconnect
        ),
        "another device moves it to its next epoch": lambda realm, line: _another_does(
            realm, line, lambda bob: bob.send(KEYS.create(bob, 1))
        ),
        "I am here": lambda realm, line: _another_does(
            realm, line, lambda bob: line.send(HereInGroup(KEYS.group))
        ),
        "Leave peer group": lambda realm, line: line.send(LeaveGroup(KEYS.group)),
        "Peer group message to a group that it has joined": _message,
        "Peer group message to a group that it has not joined": lambda realm, line: line.send(
            message(ALICE, KEYS.group, b"")
        ),
        "Peer group message from another source": lambda realm, line: line.send(
            message(BOB, KEYS.group, b"")
        ),
        "Put, Get, Delete, List or Watch": lambda realm, line: _another_does(
            realm, line, lambda bob: line.send(WatchValues(KEYS.group))
        ),
    }
)


TITLES = {kind.title for kind in packets.REALM_TO_DEVICE.values()} - {Error.title}
"""What a realm says, but for errors."""


class StateTests(TestCase):
    def line_in(self, state: str, realm: MemoryRealm) -> Line:
        """Return a line in a state, which has read everything."""
        line = realm.connect(ALICE)
        if state != "AWAITING_HELLO":
            line.send(Hello(ALICE))
        if state == "CLOSED":
            line.send(b"\xc1")
        line.take()
        self.assertEqual(state, line.conversation.state.name)
        return line

    def test_every_row_is_so(self) -> None:
        for row in table(page("realm.md"), "The conversation", "state", "next state"):
            event = row["what happens"]
            if event.startswith("the same for the fourth time"):
                continue  # It is about two connections, and has a test of its own.
            full = event == "Hello when the realm is full"
            usual = Limits(queue_bytes=131072, circuit_bytes=CIRCUIT_BYTES)
            if event.endswith("too many joined"):
                usual = dataclasses.replace(usual, device_groups=1)
            store = SlowStore()
            store.is_slow = False
            realm = MemoryRealm(SMALL if full else usual, store)
            line = self.line_in(row["state"], realm)
            EVENTS[event](realm, line)
            self.assertEqual(row["next state"], line.conversation.state.name, row)
            found = line.take()
            errors = [f"Error `{it.code}`" for it in found if isinstance(it, Error)]
            match row["what the realm does"]:
                case "nothing" | "it becomes a leg":
                    self.assertEqual([], found, row)
                case said if said.startswith("its bytes, to "):
                    self.assertEqual([], found, row)
                case "cuts the connection off":
                    self.assertEqual("aborted", line.ended, row)
                case "[the answer](values.md#changes), or an Error":
                    self.assertEqual([WatchingValues], [type(it) for it in found], row)
                case said if said.partition(",")[0] in TITLES:
                    self.assertEqual([said.partition(",")[0]], [it.title for it in found], row)
                case error:
                    # What happens to legs beside the word is seen by the event itself.
                    expected = [it for it in error.split(", ") if it.startswith("Error")]
                    self.assertEqual(expected, errors, row)
            if row["next state"] == "CLOSED" and row["state"] != "CLOSED":
                self.assertTrue(line.ended, row)

    def test_the_fourth_replacement(self) -> None:
        realm = MemoryRealm()
        line = realm.join(ALICE)
        for _ in range(conversation.CONFLICT_REPLACEMENTS - 1):
            line = realm.join_again(line)
            (answer,) = line.take()
            self.assertIsInstance(answer, BackHeartbeat)
        newest = realm.connect(ALICE)
        newest.send(Hello(ALICE))
        self.assertEqual(["identity_conflict", "replaced"], line.take_codes())
        self.assertEqual("closed", line.ended)
        said = [it.code for it in newest.take() if isinstance(it, Error)]
        self.assertEqual(["identity_conflict"], said)

    def test_every_event_stands_in_the_table(self) -> None:
        rows = table(page("realm.md"), "The conversation", "state", "next state")
        events = {row["what happens"] for row in rows}
        self.assertEqual(set(), set(EVENTS) - events)
        self.assertEqual({state.name for state in State}, {row["state"] for row in rows})
        codes = {
            plain(code) for row in rows for code in re.findall(r"`\w+`", row["what the realm does"])
        }
        # What is refused before there is a conversation has no row, nor has what values alone say.
        elsewhere = {Code.TLS_REQUIRED, Code.WRONG_REVISION, Code.VALUES_FULL, *DEVICE_CODES}
        self.assertEqual({str(code) for code in Code if code not in elsewhere}, codes)
