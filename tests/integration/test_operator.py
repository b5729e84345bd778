"""``abst-realm`` at a realm that is a process of its own: who gets in, reload, and backup."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import TestCase

from abst.address import RealmAddress
from abst.errors import Code
from abst.identity import Identity
from abst.packets import BackHeartbeat, Error, Hello, Packet, Send
from abst.realm.state_folder import CONTROL_SOCKET, INVITATION_FILE
from tests.certificates import write_certificate
from tests.integration.raw_client import RawDevice, identities, join
from tests.integration.realm_process import LOOPBACK, RealmProcess
from tests.operator.fake_realm import run_operator

ALICE, BOB, CAROL = identities(3)


def greet(port: int, identity: Identity, invitation: str | None = None) -> tuple[RawDevice, Packet]:
    """Return a connection, and what came of Hello."""
    device = RawDevice(port, identity)
    device.send(Hello(device.device_id, invitation=invitation))
    return device, device.receive()


class OperatorTests(TestCase):
    def setUp(self) -> None:
        # A socket's path has at most 107 bytes, so this is not in trial's folder.
        self.folder = Path(tempfile.mkdtemp(prefix="abst-test-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        self.state = self.folder / "state"

    def start(self, config: str = "") -> RealmProcess:
        """Start a realm with a configuration; it is killed with the test's end."""
        whole = f'listen = ["{LOOPBACK}"]\nstate = "{self.state}"\n{config}'
        realm = RealmProcess(self.folder, config=whole, access=None)
        self.addCleanup(realm.kill)
        return realm

    def operator(self, *arguments: str) -> str:
        """Run a command that has to succeed; return what it has printed."""
        status, out, said = run_operator("--config", str(self.folder / "realm.toml"), *arguments)
        self.assertEqual(0, status, said)
        return out

    def refused(self, port: int, identity: Identity, invitation: str | None = None) -> str:
        """Return the code with which a device is refused."""
        device, answer = greet(port, identity, invitation)
        device.close()
        assert isinstance(answer, Error), answer
        self.assertIsNotNone(answer.retry_after)
        return answer.code

    def join_by(self, port: int, identity: Identity, invitation: str | None) -> RawDevice:
        """Return the connection of a device that gets in."""
        device, answer = greet(port, identity, invitation)
        self.addCleanup(device.close)
        self.assertIsInstance(answer, BackHeartbeat)
        return device

    def test_an_operator_decides_who_is_here(self) -> None:
        realm = self.start()
        first = realm.address()
        self.assertEqual(0o600, stat.S_IMODE((self.state / CONTROL_SOCKET).stat().st_mode))
        self.assertEqual(f"{first.link}\n", (self.state / INVITATION_FILE).read_text("ascii"))
        alice = self.join_by(first.port, ALICE, first.invitation)
        link = self.operator("invite", "--note", "tablet").strip()
        bob = self.join_by(first.port, BOB, RealmAddress.parse(link).invitation)
        self.assertEqual(Code.NOT_INVITED, self.refused(first.port, CAROL))
        used = RealmAddress.parse(link).invitation
        self.assertEqual(Code.WRONG_INVITATION, self.refused(first.port, CAROL, used))
        alice.send_to(bob.device_id, b"hello")
        self.assertIsInstance(bob.receive(), Send)
        self.assertFalse((self.state / INVITATION_FILE).exists())
        here = json.loads(self.operator("devices", "--here", "--json"))["devices"]
        found = {device["device_id"] for device in here}
        self.assertEqual({str(ALICE.device_id), str(BOB.device_id)}, found)

        self.operator("revoke", str(BOB.device_id)[:8])
        error = bob.receive_error()
        self.assertEqual(Code.REVOKED, error.code)
        self.assertEqual([], bob.rest())
        self.assertEqual(Code.REVOKED, self.refused(first.port, BOB, used))
        alice.send_to(bob.device_id, b"are you there?")
        self.assertEqual(Code.TARGET_ABSENT, alice.receive_error().code)

        # What was decided outlives the realm, and a copy of it.
        copy = self.folder / "backup.tar"
        self.operator("backup", str(copy))
        alice.close()
        self.assertIn(realm.terminate(), (0, -15))
        status, _, said = run_operator("--state", str(self.state), "stats")
        self.assertEqual((1, True), (status, "no realm is running" in said))
        self.operator("restore", str(copy), "--force")
        again = self.start()
        self.assertEqual(first.pin, again.address().pin)
        self.assertNotIn("invitation", again.output.text)
        self.join_by(again.port, ALICE, None)
        self.assertEqual(Code.REVOKED, self.refused(again.port, BOB))

    def test_a_reload_keeps_every_connection(self) -> None:
        chain, key = write_certificate(self.folder, ec.generate_private_key(ec.SECP256R1()))
        config = f'access = "open"\ncertificate = "{chain}"\nkey = "{key}"\n'
        realm = self.start(config)
        alice, bob = (join(realm.port, identity) for identity in (ALICE, BOB))
        self.addCleanup(alice.close)
        self.addCleanup(bob.close)

        file = self.folder / "realm.toml"
        right = file.read_text("utf-8")
        file.write_text(right + "[limits]\nconnections = 0\n", "utf-8")
        status, _, said = run_operator("--state", str(self.state), "reload")
        self.assertEqual(1, status)
        self.assertIn("nothing has changed: ", said)
        self.assertIn("limits.connections", said)

        file.write_text(right + "[limits]\nheartbeat_seconds = 7\n", "utf-8")
        new_key = ec.generate_private_key(ec.SECP256R1())
        write_certificate(self.folder, new_key)
        os.kill(realm.process.pid, signal.SIGHUP)
        line = realm.log_line("the configuration was read anew")
        for name in ("limits.heartbeat_seconds", "certificate"):
            self.assertIn(name, line)
        with join(realm.port, CAROL) as carol:
            shown = carol.socket.getpeercert(binary_form=True)
            self.assertIn(new_key.public_key().public_numbers().x.to_bytes(32, "big"), shown or b"")
            carol.send(Hello(carol.device_id))
            answer = carol.receive()
            assert isinstance(answer, BackHeartbeat)
            self.assertEqual(7, answer.heartbeat_seconds)
        alice.send_to(bob.device_id, b"still here")
        self.assertEqual(b"still here", getattr(bob.receive(), "content", None))
