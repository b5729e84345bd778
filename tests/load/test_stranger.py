"""Everything in the list of bad input, from a stranger, at a realm for who was invited.

The bystanders are invited. What may come before Hello is what ``test_bad_input`` has, and gets the
same answers here; what comes behind a stranger's Hello is not looked at. ``make soak`` runs all.
"""

from __future__ import annotations

import os
import random
import shutil

import msgpack

from abst import codec
from abst.errors import Code
from abst.identity import Identity
from abst.packets import (
    BackHeartbeat,
    ConnectToDevice,
    Error,
    FindWindow,
    Hello,
    OpenWindow,
    Packet,
    Send,
)
from tests.integration import test_bad_input
from tests.integration.command_line import temporary_folder
from tests.integration.raw_client import RawDevice, identities
from tests.integration.realm_process import RealmProcess
from tests.load.siege import place_of

IS_SOAK = bool(os.environ.get("ABST_ATTACK_SECONDS"))

STRANGER = test_bad_input.ALICE
INVITED = (test_bad_input.BOB, test_bad_input.NOBODY, *identities(102)[100:])


class StrangersTestCase(test_bad_input.BadInputTestCase):
    """A realm that knows the bystanders, and two devices to look with."""

    def start_realm(self, config: str) -> RealmProcess:
        folder = temporary_folder()
        self.addCleanup(shutil.rmtree, folder)
        realm = RealmProcess(folder, config=config, access="invited")
        self.addCleanup(realm.kill)
        realm.address()
        for identity in INVITED:
            place_of(realm).ask("allow", device=str(identity.device_id), note="")
        return realm


class BehindHelloTests(StrangersTestCase):
    def bad_things(self, bob: Identity) -> list[bytes]:
        """Return what a device that is here may do wrong, and some that it may do."""
        me, you = bytes(STRANGER.device_id), bytes(bob.device_id)
        packets: list[Packet] = [
            Send(me, you, b"from a stranger"),
            Send(you, you, b"a lie"),
            ConnectToDevice(me, you),
            OpenWindow(),
            FindWindow(1),
            Hello(you),
            Hello(me),
        ]
        head = codec.encode(Send(me, you, b""))[:-2]
        return [
            *map(codec.encode, packets),
            *(msgpack.packb({"packet_id": number, "request": 1}) for number in range(256)),
            head + b"\xc6\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xc1",
            b"\x81\xa1k" + b"\x91" * 40 + b"\xc0",
            random.Random(3).randbytes(20_000),
            codec.encode(Send(me, you, bytes(100))) * 100,
        ]

    def test_a_stranger_is_told_one_thing_whatever_it_sends(self) -> None:
        bob = self.join(test_bad_input.BOB)
        everything = self.bad_things(test_bad_input.BOB)
        for sent in (*everything[:7], *everything[-6:], b"".join(everything)):
            with RawDevice(self.port, STRANGER) as device:
                device.send(codec.encode(Hello(device.device_id, invitation="guess")) + sent)
                answers = device.rest()
            self.assertEqual([Code.WRONG_INVITATION], [self.code_of(found) for found in answers])
        bob.send(Hello(bob.device_id))
        self.assertIsInstance(bob.receive(), BackHeartbeat, "nothing has come before it")

    def code_of(self, packet: Packet) -> str:
        """Return the code of an error."""
        assert isinstance(packet, Error), packet
        return packet.code


class BeforeTlsTests(StrangersTestCase, test_bad_input.BeforeTlsTests):
    skip = None if IS_SOAK else "'make soak' has a stranger try these"


class HandshakeTests(StrangersTestCase, test_bad_input.HandshakeTests):
    skip = BeforeTlsTests.skip


class HelloTests(StrangersTestCase, test_bad_input.HelloTests):
    skip = BeforeTlsTests.skip
