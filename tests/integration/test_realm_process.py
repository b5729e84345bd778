"""``abst-realm`` as its operator sees it: what it prints, logs, writes and refuses."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import TestCase

from abst.address import DEFAULT_PORT, RealmAddress, pin_of_key
from abst.errors import Code
from abst.identity import Identity
from abst.packets import BackHeartbeat, Error, Hello
from tests.certificates import write_certificate
from tests.integration.raw_client import RawDevice, identities, join
from tests.integration.realm_process import LOOPBACK, TWIST, TWISTD, RealmProcess

ALICE, BOB = identities(2)


class RealmProcessTestCase(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()

    def start(self, *arguments: str, config: str | None = None, **options: object) -> RealmProcess:
        """Start a realm in this test's folder; it is killed with the test's end."""
        realm = RealmProcess(self.folder, *arguments, config=config, **options)  # type: ignore[arg-type]
        self.addCleanup(realm.kill)
        return realm

    def assert_no_traceback(self, realm: RealmProcess) -> None:
        """Assert that a realm has printed and logged nothing that only its authors understand."""
        for word in ("Traceback", "Unhandled", 'File "', "builtins."):
            self.assertNotIn(word, realm.output.text)

    def assert_ends_in_order(self, realm: RealmProcess) -> None:
        """Assert that SIGTERM ends a realm soon, with what is usual for a signal and no other."""
        self.assertIn(realm.terminate(), (0, -15))
        self.assert_no_traceback(realm)


class StartTests(RealmProcessTestCase):
    def test_it_needs_no_configuration_at_all(self) -> None:
        """Only the port is another than by default, so that tests may run side by side."""
        realm = self.start("--listen", LOOPBACK)
        address = realm.address()
        self.assertIn(str(address), realm.output.lines)
        self.assertEqual("127.0.0.1", address.host)
        state = self.folder / "home" / ".local" / "state" / "abst-realm"
        self.assertEqual(0o700, stat.S_IMODE(state.stat().st_mode))
        identity = state / "identity.pem"
        self.assertEqual(0o600, stat.S_IMODE(identity.stat().st_mode))
        self.assertEqual(f"{address}\n", (state / "address").read_text("ascii"))
        with join(realm.port, ALICE):
            pass
        self.assert_ends_in_order(realm)

    def test_the_default_port(self) -> None:
        """The only test that takes it: when somebody else has it, a line says so."""
        realm = self.start()
        try:
            address = realm.address()
        except AssertionError:
            self.assertEqual(1, realm.wait())
            self.assertIn(f"{DEFAULT_PORT}", realm.output.text)
            self.assertIn("in use", realm.output.text)
            self.assert_no_traceback(realm)
            return
        self.assertEqual(DEFAULT_PORT, address.port)
        self.assertNotIn(address.host, ("::", "0.0.0.0", ""))
        with join(DEFAULT_PORT, ALICE):
            pass
        self.assert_ends_in_order(realm)

    def test_the_address_has_the_pin_of_the_key_that_it_shows(self) -> None:
        realm = self.start("--listen", LOOPBACK)
        with join(realm.port, ALICE) as device:
            shown = device.socket.getpeercert(binary_form=True)
        assert shown is not None
        key = x509.load_der_x509_certificate(shown).public_key()
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(pin_of_key(der), realm.address().pin)

    def test_it_is_the_same_realm_after_a_restart(self) -> None:
        first = self.start("--listen", LOOPBACK)
        pin = first.address().pin
        self.assert_ends_in_order(first)
        self.assertEqual(pin, self.start("--listen", LOOPBACK).address().pin)

    def test_it_is_another_realm_with_another_state_folder(self) -> None:
        pins = set()
        for name in ("one", "two"):
            state = self.folder / name / "below"
            realm = self.start("--listen", LOOPBACK, "--state", str(state))
            pins.add(realm.address().pin)
            self.assertTrue((state / "identity.pem").exists())
        self.assertEqual(2, len(pins))

    def test_systemd_says_where_its_state_is(self) -> None:
        state = self.folder / "given"
        realm = self.start("--listen", LOOPBACK, environment={"STATE_DIRECTORY": str(state)})
        realm.address()
        self.assertTrue((state / "identity.pem").exists())

    def test_it_listens_wherever_it_is_told_to(self) -> None:
        realm = self.start("--listen", LOOPBACK, "--listen", LOOPBACK, "--listen", LOOPBACK)
        addresses = [realm.address(number) for number in range(3)]
        self.assertEqual(3, len({address.port for address in addresses}))
        self.assertEqual(1, len({address.pin for address in addresses}))
        with join(addresses[0].port, ALICE) as alice, join(addresses[2].port, BOB) as bob:
            alice.send_to(bob.device_id, b"across ports")
            self.assertEqual(b"across ports", getattr(bob.receive(), "content", None))
        self.assert_ends_in_order(realm)

    def test_the_file_says_the_same_as_the_command_line(self) -> None:
        config = (
            f'listen = ["{LOOPBACK}", "{LOOPBACK}"]\n'
            f'state = "{self.folder}/from-file"\n'
            'host = "realm.example.org"\n'
            "[limits]\nheartbeat_seconds = 3.5\nqueue_bytes = 262144\n"
        )
        realm = self.start(config=config)
        addresses = [realm.address(number) for number in range(2)]
        self.assertEqual({"realm.example.org"}, {address.host for address in addresses})
        self.assertTrue((self.folder / "from-file" / "identity.pem").exists())
        with RawDevice(realm.port, ALICE) as device:
            answer = device.hello()
        self.assertEqual(3.5, answer.heartbeat_seconds)
        self.assertEqual(262144, answer.limits["queue_bytes"])

    def test_twistd_starts_it_too(self) -> None:
        realm = self.start("--listen", LOOPBACK, command=TWISTD)
        with join(realm.port, ALICE):
            pass
        self.assertIn(str(realm.address()), realm.output.lines)
        self.assert_ends_in_order(realm)

    def test_a_certificate_of_its_own(self) -> None:
        """Such as Let's Encrypt's: ECDSA, with a host name; the address has no pin then."""
        self.folder.mkdir()
        chain, key_file = write_ecdsa_certificate(self.folder)
        realm = self.start(
            config=f'listen = ["{LOOPBACK}"]\nhost = "realm.example.org"\n'
            f'certificate = "{chain}"\nkey = "{key_file}"\n'
        )
        address = realm.address()
        self.assertEqual(RealmAddress("realm.example.org", address.port, None), address)
        with join(address.port, ALICE) as device:
            self.assertEqual(
                x509.load_pem_x509_certificate(chain.read_bytes()).public_bytes(Encoding.DER),
                device.socket.getpeercert(binary_form=True),
            )
        self.assert_ends_in_order(realm)

    def test_it_may_have_as_many_connections_as_its_limit_says(self) -> None:
        """Debian gives a process 1,024 files and lets it have more when it asks."""
        command = ("sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh", *TWIST)
        realm = self.start("--listen", LOOPBACK, command=command)
        devices = [join(realm.port, identity) for identity in identities(80)]
        for device in devices:
            device.close()
        self.assert_ends_in_order(realm)


class RefusalTests(RealmProcessTestCase):
    """Each ends with one line that says what is wrong, and with a status that is not 0."""

    def refused(
        self,
        *arguments: str,
        status: int,
        config: str | None = None,
        twistd: bool = True,
    ) -> str:
        """Return the line with which ``twist``, and ``twistd`` likewise, refuse to start."""
        lines = []
        commands = (TWIST, TWISTD) if twistd else (TWIST,)
        realms = [self.start(*arguments, config=config, command=command) for command in commands]
        for realm in realms:
            self.assertEqual(status, realm.wait())
            self.assert_no_traceback(realm)
            said = [
                line.partition("abst-realm: ")[2]
                for line in realm.output.lines
                if "abst-realm: " in line
            ]
            self.assertEqual(1, len(said), realm.output.text)
            self.assertEqual([], [line for line in realm.output.lines if "abst://" in line])
            lines.append(said[0])
        self.assertEqual(1, len(set(lines)))
        return lines[0]

    def test_an_unknown_key_in_the_file(self) -> None:
        line = self.refused("--listen", LOOPBACK, config="litsen = 5\n", status=2)
        self.assertIn("realm.toml: litsen: unknown", line)
        line = self.refused(config="[limits]\nqueue = 5\n", status=2)
        self.assertIn("realm.toml: limits.queue: unknown", line)

    def test_a_bad_value_in_the_file(self) -> None:
        for text, words in (
            ('listen = ["nonsense:1"]', "realm.toml: listen: 'nonsense:1' is no endpoint"),
            ('[limits]\nconnections = "many"', "realm.toml: limits.connections: needs a whole"),
            ("[limits]\nstall_seconds = inf", "realm.toml: limits.stall_seconds: at most 86400"),
        ):
            self.assertIn(words, self.refused(config=text + "\n", status=2, twistd=False))

    def test_a_file_that_is_none(self) -> None:
        line = self.refused("--config", "/nowhere/realm.toml", status=2)
        self.assertIn("/nowhere/realm.toml: No such file", line)
        self.assertIn("not TOML", self.refused(config="listen = [", status=2, twistd=False))

    def test_a_bad_endpoint_on_the_command_line(self) -> None:
        line = self.refused("--listen", LOOPBACK, "--listen", "tcp:http-ish", status=2)
        self.assertIn("command line: listen: 'tcp:http-ish' is no endpoint", line)

    def test_a_port_that_is_taken(self) -> None:
        realm = self.start("--listen", LOOPBACK)
        endpoint = f"tcp:{realm.port}:interface=127.0.0.1"
        other = str(self.folder / "other")
        arguments = ("--listen", LOOPBACK, "--listen", endpoint, "--state", other)
        line = self.refused(*arguments, status=1, twistd=False)  # One realm has the folder.
        self.assertIn(endpoint, line)
        self.assertIn("in use", line)

    def test_a_state_folder_that_is_in_use(self) -> None:
        self.start("--listen", LOOPBACK).address()
        line = self.refused("--listen", LOOPBACK, status=1)
        self.assertIn("another realm is running there", line)

    def test_an_identity_that_others_may_read(self) -> None:
        state = self.folder / "state"
        state.mkdir(mode=0o700, parents=True)
        Identity.load_or_create(state / "identity.pem")
        (state / "identity.pem").chmod(0o644)
        line = self.refused("--listen", LOOPBACK, "--state", str(state), status=1)
        self.assertIn("identity.pem: others may read this key", line)
        self.assertIn("chmod 600", line)

    def test_an_identity_that_is_none(self) -> None:
        state = self.folder / "state"
        state.mkdir(parents=True)
        identity = state / "identity.pem"
        identity.write_text("not a key\n", "ascii")
        identity.chmod(0o600)
        line = self.refused("--listen", LOOPBACK, "--state", str(state), status=1)
        self.assertIn("identity.pem: holds no private key", line)

    def test_a_state_folder_that_cannot_be_made(self) -> None:
        self.folder.mkdir()
        (self.folder / "file").write_text("", "ascii")
        state = self.folder / "file" / "state"
        line = self.refused("--listen", LOOPBACK, "--state", str(state), status=1)
        self.assertIn(f"{state}: Not a directory", line)

    def test_a_state_folder_that_cannot_be_written(self) -> None:
        if os.geteuid() == 0:
            state = Path("/proc/self/fdinfo")  # Even root writes nothing there.
        else:
            state = self.folder / "state"
            state.mkdir(parents=True)
            state.chmod(0o500)
        line = self.refused("--listen", LOOPBACK, "--state", str(state), status=1)
        self.assertIn(str(state), line)

    def test_certificates_that_cannot_be_used(self) -> None:
        self.folder.mkdir()
        chain, key = write_ecdsa_certificate(self.folder)
        (self.folder / "other").mkdir()
        _, other_key = write_ecdsa_certificate(self.folder / "other")
        nothing = self.folder / "nothing.pem"
        nothing.write_text("nothing\n", "ascii")
        missing = self.folder / "missing.pem"
        for certificate, key_file, words in (
            (nothing, key, f"{nothing}: no readable PEM certificate"),
            (missing, key, f"{missing}: "),
            (chain, nothing, f"{nothing}: "),
            (chain, missing, f"{missing}: "),
            (chain, other_key, f"{other_key}: not the key of {chain}"),
        ):
            config = f'certificate = "{certificate}"\nkey = "{key_file}"\n'
            line = self.refused("--listen", LOOPBACK, config=config, status=1, twistd=False)
            self.assertIn(words, line)

    def test_an_unknown_option_is_wrong_usage(self) -> None:
        realm = self.start("--lisen", LOOPBACK)
        self.assertNotEqual(0, realm.wait())
        self.assert_no_traceback(realm)
        self.assertIn("lisen", realm.output.text)


class StopTests(RealmProcessTestCase):
    def test_sigterm_announces_the_restart(self) -> None:
        for command in (TWIST, TWISTD):
            realm = self.start("--listen", LOOPBACK, command=command)
            devices = [join(realm.port, identity) for identity in identities(20)]
            realm.process.terminate()
            for device in devices:
                (error,) = device.rest()
                assert isinstance(error, Error)
                self.assertEqual(Code.RESTARTING, error.code)
                assert error.retry_after is not None
                self.assertTrue(0 < error.retry_after < 5)
                device.close()
            self.assertIn(realm.wait(), (0, -15))
            self.assert_no_traceback(realm)

    def test_a_device_that_does_not_close_does_not_hold_it_up(self) -> None:
        realm = self.start("--listen", LOOPBACK)
        device = join(realm.port, ALICE)
        self.addCleanup(device.close)
        silent = RawDevice(realm.port, BOB)
        self.addCleanup(silent.close)
        self.assert_ends_in_order(realm)

    def test_a_device_that_does_not_read_does_not_hold_it_up(self) -> None:
        realm = self.start("--listen", LOOPBACK)
        with join(realm.port, ALICE) as alice, join(realm.port, BOB) as bob:
            answer = None
            while answer is None or isinstance(answer, BackHeartbeat):
                for _ in range(100):
                    alice.send_to(bob.device_id, bytes(60_000))
                alice.send(Hello(alice.device_id))
                answer = alice.receive()
            assert isinstance(answer, Error)
            self.assertEqual(Code.QUEUE_FULL, answer.code)
            self.assert_ends_in_order(realm)


class LogTests(RealmProcessTestCase):
    def test_an_operator_sees_who_comes_and_why_they_go(self) -> None:
        config = f'listen = ["{LOOPBACK}"]\n[limits]\nhello_seconds = 0.3\n'
        realm = self.start(config=config)
        short = bytes(ALICE.device_id)[:4].hex()
        with join(realm.port, ALICE) as alice:
            self.assertIn("1 in all", realm.log_line("is here", short))
            alice.send_to(bytes(BOB.device_id), b"a secret that is nobody's business")
            self.assertEqual(Code.TARGET_ABSENT, alice.receive_error().code)
        self.assertIn("it closed", realm.log_line("is gone", short))
        with join(realm.port, BOB) as bob:
            bob.send(b"\xc1")
            bob.rest()
        self.assertIn(Code.MALFORMED, realm.log_line("is gone", bytes(BOB.device_id)[:4].hex()))
        with RawDevice(realm.port, ALICE) as late:
            late.rest()
        realm.log_line("was not let in", Code.HELLO_LATE)
        self.assert_ends_in_order(realm)
        log = realm.output.text
        for identity in (ALICE, BOB):
            self.assertNotIn(str(identity.device_id), log)
            self.assertNotIn(bytes(identity.device_id).hex(), log)
            self.assertNotIn(repr(bytes(identity.device_id)), log)
        self.assertNotIn("secret", log)
        self.assertEqual(2, len(re.findall("is here", log)))
        self.assertEqual(2, len(re.findall("is gone", log)))


def write_ecdsa_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed ECDSA certificate and its key; return both paths."""
    return write_certificate(folder, ec.generate_private_key(ec.SECP256R1()))
