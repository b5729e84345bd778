"""Identities: made once, kept to their owner, never overwritten."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.trial.unittest import TestCase

from abst.address import pin_of_key
from abst.device_id import DeviceID
from abst.errors import IdentityError
from abst.identity import Identity

ROOT = Path(__file__).parent.parent

CREATE_WHEN_TOLD = """
import sys
from pathlib import Path
from abst.identity import Identity
print("ready", flush=True)
sys.stdin.readline()
print(Identity.load_or_create(Path(sys.argv[1])).device_id)
"""

# An Ed25519 key's PKCS #8 frame around the parameters of a curve that does not exist.
UNKNOWN_CURVE = b"""-----BEGIN PRIVATE KEY-----
MEECAQAwEwYHKoZIzj0CAQYIKwYBBQUHAwEEJzAlAgEBBCAAAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAAAQ==
-----END PRIVATE KEY-----
"""


class FileTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.path = self.folder / "identity.pem"

    def assert_unusable(self, reason: str) -> None:
        """Check that the file is refused in words that name it."""
        error = self.assertRaises(IdentityError, Identity.load, self.path)
        self.assertIn(reason, str(error))
        self.assertTrue(str(error).startswith(f"{self.path}: "))

    def write(self, text: bytes, mode: int = 0o600) -> None:
        self.path.write_bytes(text)
        self.path.chmod(mode)

    def test_what_is_saved_is_loaded(self) -> None:
        identity = Identity.generate()
        identity.save(self.path)
        loaded = Identity.load(self.path)
        self.assertEqual(identity.public_key, loaded.public_key)
        self.assertEqual(identity.device_id, loaded.device_id)
        self.assertEqual(identity.to_pem(), loaded.to_pem())

    def test_only_the_owner_may_read_the_file(self) -> None:
        """Whatever the umask of the process is: also one that gives everything to everybody."""
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        Identity.generate().save(self.path)
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))

    def test_a_file_that_others_may_read_is_refused(self) -> None:
        text = Identity.generate().to_pem()
        for bit in (0o040, 0o020, 0o010, 0o004, 0o002, 0o001):
            self.write(text, 0o600 | bit)
            self.assert_unusable(f"chmod 600 {self.path}")
        for mode in (0o600, 0o400, 0o700):
            self.write(text, mode)
            Identity.load(self.path)

    def test_a_file_that_holds_no_key(self) -> None:
        for text in (
            b"",
            b"nonsense",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ):
            self.write(text)
            self.assert_unusable("no private key in PEM form")

    def test_a_key_of_an_unknown_kind(self) -> None:
        self.write(UNKNOWN_CURVE)
        self.assert_unusable("no private key in PEM form")

    def test_a_key_of_another_kind(self) -> None:
        key = generate_private_key(SECP256R1())
        self.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.assert_unusable("another kind")

    def test_a_key_with_a_passphrase(self) -> None:
        encryption = BestAvailableEncryption(b"secret")
        key = Identity.generate().private_key
        self.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        self.assert_unusable("no private key in PEM form")

    def test_a_public_key(self) -> None:
        public = Identity.generate().private_key.public_key()
        self.write(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        self.assert_unusable("no private key in PEM form")

    def test_no_file_and_a_folder(self) -> None:
        self.assert_unusable("No such file")
        self.path.mkdir()
        self.assert_unusable("directory")

    def test_an_identity_is_never_overwritten(self) -> None:
        first = Identity.generate()
        first.save(self.path)
        self.assertRaises(FileExistsError, Identity.generate().save, self.path)
        self.assertEqual(first.to_pem(), self.path.read_bytes())

    def test_what_is_there_stays_whatever_it_is(self) -> None:
        """Also an empty file, and a link that leads nowhere: both may be somebody's accident."""
        self.write(b"")
        self.assertRaises(FileExistsError, Identity.generate().save, self.path)
        self.assertRaises(IdentityError, Identity.load_or_create, self.path)
        self.assertEqual(b"", self.path.read_bytes())
        self.path.unlink()
        self.path.symlink_to("nowhere")
        self.assertRaises(FileExistsError, Identity.generate().save, self.path)
        self.assertRaises(IdentityError, Identity.load_or_create, self.path)
        self.assertFalse((self.folder / "nowhere").exists())

    def test_nothing_else_stays_in_the_folder(self) -> None:
        Identity.generate().save(self.path)
        self.assertRaises(FileExistsError, Identity.generate().save, self.path)
        self.assertEqual([self.path], list(self.folder.iterdir()))

    def test_what_a_killed_process_left_behind_is_in_nobodys_way(self) -> None:
        """In a container every process is number 1: a draft named after it would meet the last."""
        (self.folder / f".identity.pem.{os.getpid()}").write_bytes(b"")
        identity = Identity.load_or_create(self.path)
        self.assertEqual(identity.device_id, Identity.load(self.path).device_id)

    def test_a_folder_that_cannot_be_written(self) -> None:
        for path in (self.folder / "none" / "identity.pem", self.folder / ("x" * 300)):
            error = self.assertRaises(IdentityError, Identity.load_or_create, path)
            self.assertTrue(str(error).startswith(f"{path}: "))
            self.assertRaises(IdentityError, Identity.generate().save, path)

    def test_an_identity_is_made_once(self) -> None:
        first = Identity.load_or_create(self.path)
        self.assertEqual(first.device_id, Identity.load_or_create(self.path).device_id)

    def test_the_faster_one_of_two_wins(self) -> None:
        """Another process has made the file since this one has looked for it."""
        winner = Identity.generate()
        path = self.path

        class Slow(Identity):
            @classmethod
            def generate(cls) -> Self:
                winner.save(path)
                return cls(Identity.generate().private_key)

        self.assertEqual(winner.device_id, Slow.load_or_create(path).device_id)

    def test_several_processes_at_once_get_one_identity(self) -> None:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CREATE_WHEN_TOLD, str(self.path.absolute())],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            self.assertEqual("ready\n", process.stdout.readline())
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found = {process.communicate(timeout=60)[0].strip() for process in processes}
        self.assertEqual([0] * 4, [process.returncode for process in processes])
        self.assertEqual({str(Identity.load(self.path).device_id)}, found)
        self.assertEqual([self.path], list(self.folder.iterdir()))


class KeyTests(TestCase):
    def test_all_names_come_from_the_public_key(self) -> None:
        identity = Identity.generate()
        self.assertEqual(44, len(identity.public_key))
        self.assertEqual(DeviceID.of_key(identity.public_key), identity.device_id)
        self.assertEqual(pin_of_key(identity.public_key), identity.pin)

    def test_identities_differ(self) -> None:
        self.assertNotEqual(Identity.generate().device_id, Identity.generate().device_id)

    def test_no_private_key_is_shown(self) -> None:
        identity = Identity.generate()
        self.assertEqual(f"<Identity {identity.device_id}>", repr(identity))


class CertificateTests(TestCase):
    def setUp(self) -> None:
        self.identity = Identity.generate()
        self.certificate = self.identity.certificate()

    def test_it_carries_the_key_and_is_signed_with_it(self) -> None:
        key = self.certificate.public_key()
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(self.identity.public_key, der)
        self.identity.private_key.public_key().verify(
            self.certificate.signature, self.certificate.tbs_certificate_bytes
        )

    def test_it_is_always_the_same(self) -> None:
        again = Identity(self.identity.private_key).certificate()
        der = Encoding.DER
        self.assertEqual(self.certificate.public_bytes(der), again.public_bytes(der))

    def test_it_says_nothing_about_its_owner(self) -> None:
        """Two certificates differ in the key, in what is made of it, and in nothing else."""
        other = Identity.generate().certificate()
        for read in (
            lambda it: it.subject,
            lambda it: it.issuer,
            lambda it: it.not_valid_before_utc,
            lambda it: it.not_valid_after_utc,
            lambda it: list(it.extensions),
            lambda it: it.version,
        ):
            self.assertEqual(read(self.certificate), read(other))
        self.assertEqual("CN=ABST", self.certificate.subject.rfc4514_string())
        self.assertEqual([], list(self.certificate.extensions))

    def test_it_does_not_end(self) -> None:
        """RFC 5280, 4.1.2.5: the date of certificates that have no end."""
        self.assertEqual("99991231235959", f"{self.certificate.not_valid_after_utc:%Y%m%d%H%M%S}")
        self.assertEqual("20000101000000", f"{self.certificate.not_valid_before_utc:%Y%m%d%H%M%S}")

    def test_its_serial_number_is_allowed(self) -> None:
        """RFC 5280, 4.1.2.2: positive, at most 20 bytes."""
        for _ in range(50):
            identity = Identity.generate()
            serial = identity.certificate().serial_number
            self.assertEqual(int.from_bytes(identity.pin[:16], "big") | 1, serial)
            self.assertTrue(0 < serial < 2**159)

    def test_other_libraries_can_read_it(self) -> None:
        der = self.certificate.public_bytes(Encoding.DER)
        self.assertEqual(self.certificate, x509.load_der_x509_certificate(der))
