"""Hostile legs of circuits, over real connections to a realm that is a real process.

As in ``test_bad_input``: each gets its error, and the bystanders must not notice anything.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path
from typing import ClassVar

from twisted.trial.unittest import SkipTest, TestCase

from abst import codec
from abst.errors import Code
from abst.packets import REALM_TO_DEVICE, Circuit, ConnectToDevice, Error, Leg, parse
from tests.integration.raw_client import PATIENCE_SECONDS, Bystanders, RawDevice, join
from tests.integration.realm_process import LOOPBACK, TWIST, RealmProcess
from tests.integration.test_bad_input import ALICE, BOB, BadInputTestCase
from tests.plays import read_to_the_end, reset

MEGABYTE = 1024 * 1024


def ask(asker: RawDevice, target: RawDevice) -> tuple[Circuit, Circuit] | Error:
    """Return what both are told of a new circuit, or how it was refused."""
    asker.send(ConnectToDevice(asker.device_id, target.device_id))
    answer = asker.receive()
    if isinstance(answer, Error):
        return answer
    told = target.receive()
    assert isinstance(answer, Circuit)
    assert isinstance(told, Circuit)
    return answer, told


def code_of(connection: socket.socket) -> str:
    """Return the code with which the realm closes a connection in order."""
    data = read_to_the_end(connection)
    assert data is not None, "it was reset"
    packet = parse(codec.decode(data), REALM_TO_DEVICE)
    assert isinstance(packet, Error)
    return packet.code


class BadLegTests(BadInputTestCase):
    limits: ClassVar[dict[str, float]] = {
        "hello_seconds": 1.0,
        "circuit_requests_per_minute": 100_000,
        "circuit_meet_seconds": 2.0,
        "circuits": 400,
        "device_circuits": 300,
    }

    def test_what_is_no_good_token(self) -> None:
        token = codec.encode(Leg(bytes(32)))
        for data, code in (
            (token, Code.WRONG_TOKEN),
            (token + bytes(100_000), Code.WRONG_TOKEN),
            (b"\x80", Code.MALFORMED),
            (b"\x81\xa9packet_id\x01", Code.MALFORMED),
            (b"\x81\xc1", Code.MALFORMED),
            (b"\x81\xa1a\xc5\x01\x00" + bytes(256), Code.TOO_LARGE),
            (b"\xdf\xff\xff\xff\xff", Code.TOO_LARGE),
            (b"\x8f" + b"\x8f" * 300, Code.MALFORMED),
            (b"\x81\xa9packet_id\x00", Code.TLS_REQUIRED),
            (b"\x81\xa9packet_id\xcc\xff", Code.TLS_REQUIRED),
        ):
            for size in (len(data), 1):
                connection = self.plain()
                with contextlib.suppress(OSError):
                    for begin in range(0, min(len(data), 400), size):
                        connection.sendall(data[begin : begin + size])
                self.assertEqual(code, code_of(connection), (data[:20], size))
                connection.close()
        self.assert_only_bystanders_are_here()

    def test_every_cut_of_a_token(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        found = ask(alice, bob)
        assert not isinstance(found, Error)
        data = codec.encode(Leg(found[0].token))
        connections = []
        for end in range(1, len(data)):
            connections.append(self.plain())
            connections[-1].sendall(data[:end])
        for connection in connections[::2]:
            reset(connection)
        for connection in connections[1::2]:
            self.assertEqual(Code.HELLO_LATE, code_of(connection))
            connection.close()
        alice.close()
        bob.close()
        self.assert_only_bystanders_are_here()

    def test_a_thousand_circuits_opened_and_abandoned(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        before = self.realm.resident_bytes()
        refused = 0
        for number in range(1000):
            found = ask(alice, bob)
            if isinstance(found, Error):
                self.assertEqual(Code.CIRCUITS_FULL, found.code)
                refused += 1
                continue
            if number % 3:
                leg = self.plain()
                leg.sendall(codec.encode(Leg(found[number % 2].token)) + b"early")
                if number % 3 == 1:
                    reset(leg)
        self.assertGreaterEqual(refused, 600)
        self.assertLess(self.realm.resident_bytes() - before, 20 * MEGABYTE)
        alice.close()
        bob.close()
        self.assert_only_bystanders_are_here()


class FewFilesTests(TestCase):
    """More circuits are allowed than the system has descriptors for."""

    def test_there_is_no_room_long_before_there_is_no_file(self) -> None:
        if sys.platform != "linux":
            raise SkipTest("it counts a process's files")
        command = ("sh", "-c", 'ulimit -n 400 && exec "$@"', "sh", *TWIST)
        limits = "device_circuits = 9999\ncircuit_requests_per_minute = 9999\n"
        config = f'listen = ["{LOOPBACK}"]\n[limits]\n{limits}'
        with RealmProcess(Path(self.mktemp()), config=config, command=command) as realm:
            realm.log_line("allows 400 open files")
            bystanders = Bystanders(realm.port)
            self.addCleanup(bystanders.stop)
            alice, bob = join(realm.port, ALICE), join(realm.port, BOB)
            self.addCleanup(alice.close)
            self.addCleanup(bob.close)
            legs: list[socket.socket] = []
            while not isinstance(found := ask(alice, bob), Error):
                for offer in found:
                    leg = socket.create_connection(("127.0.0.1", realm.port), PATIENCE_SECONDS)
                    self.addCleanup(leg.close)
                    leg.sendall(codec.encode(Leg(offer.token)))
                    legs.append(leg)
                legs[-1].sendall(b"x")
                self.assertEqual(b"x", legs[-2].recv(1))
            self.assertEqual(Code.CIRCUITS_FULL, found.code)
            self.assertGreater(len(legs), 20)
            # Each direction has a pipe that is full, and still nobody is refused a file.
            for leg in legs:
                leg.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    for _ in range(200):
                        leg.send(bytes(65536))
            bystanders.check()
            self.assertLess(realm.open_files(), 400)
            with join(realm.port, ALICE) as newer:
                self.assertEqual(newer.device_id, bytes(ALICE.device_id))
            bystanders.check()
            realm.terminate()
            for word in ("Traceback", "Unhandled", "Too many open files"):
                self.assertNotIn(word, realm.output.text)
