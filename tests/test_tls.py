"""Identities to TLS connections: whose key is taken, whose is refused, and what is said then."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase, TestCase

from abst.address import RealmAddress, pin_of_key
from abst.errors import AbstError, IdentityError, WrongKeyError
from abst.identity import Identity
from abst.tls import (
    DEVICE_ALPN,
    REALM_ALPN,
    ChannelContexts,
    TlsEngine,
    device_key_of,
    key_of,
    realm_client_creator,
    realm_server_context,
)
from tests.certificates import Key, make_certificate, write_certificate

REALM, ALICE, BOB, MALLORY = (Identity.generate() for _ in range(4))
ED25519_OID = bytes.fromhex("06032b6570")


def take(key: bytes) -> None:
    """Take every key."""


def only(identity: Identity) -> OnlyKey:
    """Return a check that takes one identity's key."""
    return OnlyKey(identity.public_key)


class OnlyKey:
    """Takes one key."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def __call__(self, key: bytes) -> None:
        if key != self.key:
            raise WrongKeyError("the peer", "this one", "that one")


def certificate_of(key: Key) -> crypto.X509:
    """Return a certificate of a key, as OpenSSL has it."""
    return crypto.X509.from_cryptography(make_certificate(key))


def altered(certificate: crypto.X509, old: bytes, new: bytes) -> crypto.X509:
    """Return a certificate in whose DER the last occurrence of some bytes is others."""
    der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
    before, _, after = der.rpartition(old)
    return crypto.load_certificate(crypto.FILETYPE_ASN1, before + new + after)


class KeyTests(SynchronousTestCase):
    def test_a_devices_key_is_in_its_certificate(self) -> None:
        certificate = crypto.X509.from_cryptography(ALICE.certificate())
        self.assertEqual(ALICE.public_key, device_key_of(certificate))
        self.assertEqual(ALICE.public_key, key_of(ALICE.certificate()))

    def test_who_signed_it_and_what_it_says_does_not_matter(self) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        self.assertEqual(Identity(key).public_key, device_key_of(certificate_of(key)))

    def test_no_certificate_is_no_device(self) -> None:
        self.assertRaises(IdentityError, device_key_of, None)

    def test_other_kinds_of_key_are_no_device(self) -> None:
        for key in (
            ec.generate_private_key(ec.SECP256R1()),
            rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ):
            self.assertRaises(IdentityError, device_key_of, certificate_of(key))

    def test_keys_that_nobody_knows_are_no_device(self) -> None:
        """OpenSSL passes such certificates on, and cryptography refuses to read them."""
        certificate = crypto.X509.from_cryptography(ALICE.certificate())
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        key_at = der.index(ED25519_OID, der.index(b"ABST"))
        for alteration in (b"\x06\x03\x2b\x65\x7f", b"\x06\x03\x55\x04\x03"):
            strange = crypto.load_certificate(
                crypto.FILETYPE_ASN1,
                der[:key_at] + alteration + der[key_at + len(alteration) :],
            )
            self.assertRaises(IdentityError, device_key_of, strange)

    def test_certificates_that_only_openssl_reads_are_no_device(self) -> None:
        certificate = crypto.X509.from_cryptography(ALICE.certificate())
        version_9 = altered(certificate, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09")
        self.assertRaises(IdentityError, device_key_of, version_9)


class ServerContextTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def refused(self, certificate: Path, key: Path) -> str:
        """Return the words with which files are refused."""
        error = self.assertRaises(
            IdentityError, realm_server_context, REALM, str(certificate), str(key)
        )
        return str(error)

    def test_files_that_fit_each_other(self) -> None:
        for key in (
            ec.generate_private_key(ec.SECP256R1()),
            rsa.generate_private_key(public_exponent=65537, key_size=2048),
            ed25519.Ed25519PrivateKey.generate(),
        ):
            certificate, key_file = write_certificate(self.folder, key)
            realm_server_context(REALM, str(certificate), str(key_file))

    def test_files_that_cannot_be_used_are_named(self) -> None:
        certificate, key_file = write_certificate(
            self.folder, ec.generate_private_key(ec.SECP256R1())
        )
        (self.folder / "other").mkdir()
        _, other_key = write_certificate(
            self.folder / "other", ec.generate_private_key(ec.SECP256R1())
        )
        empty = self.folder / "empty.pem"
        empty.write_bytes(b"")
        missing = self.folder / "missing.pem"
        self.assertIn(str(empty), self.refused(empty, key_file))
        self.assertIn(str(missing), self.refused(missing, key_file))
        self.assertIn(str(empty), self.refused(certificate, empty))
        self.assertIn(str(missing), self.refused(certificate, missing))
        self.assertIn(str(other_key), self.refused(certificate, other_key))
        self.assertIn(str(key_file), self.refused(key_file, key_file))


class Handshake:
    """A device's and a realm's end, joined in memory.

    Attributes:
        error: what the end that failed has raised, or None.
    """

    def __init__(self, client: SSL.Connection, server_context: SSL.Context) -> None:
        self.client = client
        client.set_connect_state()
        self.server = SSL.Connection(server_context, None)
        self.server.set_accept_state()
        self.error: SSL.Error | None = None
        for _ in range(6):
            for end, other in ((self.client, self.server), (self.server, self.client)):
                try:
                    end.do_handshake()
                except SSL.WantReadError:
                    pass
                except SSL.Error as error:
                    self.error = self.error or error
                self._move(end, other)

    def _move(self, source: SSL.Connection, target: SSL.Connection) -> None:
        try:
            target.bio_write(source.bio_read(65536))
        except SSL.WantReadError:
            pass


class RealmClientTests(SynchronousTestCase):
    def connect(
        self, address: RealmAddress, realm: Identity = REALM
    ) -> tuple[Handshake, AbstError | None]:
        """Return a handshake with a realm, and what the client says is wrong."""
        creator = realm_client_creator(ALICE, address)
        client = creator.clientConnectionForTLS(None)
        return Handshake(client, realm_server_context(realm)), creator.problem

    def test_the_pinned_key_is_taken_by_whatever_name(self) -> None:
        for host in ("realm.example.org", "192.0.2.1", "2001:db8::1", "localhost"):
            handshake, problem = self.connect(RealmAddress(host, 1, REALM.pin))
            self.assertIsNone(handshake.error)
            self.assertIsNone(problem)
            self.assertEqual(REALM_ALPN, handshake.client.get_alpn_proto_negotiated())
            self.assertEqual("TLSv1.3", handshake.client.get_protocol_version_name())
            found = device_key_of(handshake.server.get_peer_certificate())
            self.assertEqual(ALICE.public_key, found)

    def test_another_key_is_refused_with_both_pins(self) -> None:
        address = RealmAddress("realm.example.org", 1, REALM.pin)
        handshake, problem = self.connect(address, MALLORY)
        self.assertIsNotNone(handshake.error)
        assert isinstance(problem, WrongKeyError)
        self.assertNotEqual(problem.expected, problem.found)
        self.assertEqual(pin_of_key(MALLORY.public_key), MALLORY.pin)

    def test_a_certificate_that_cannot_be_read_is_refused(self) -> None:
        creator = realm_client_creator(ALICE, RealmAddress("h", 1, REALM.pin))
        certificate = crypto.X509.from_cryptography(REALM.certificate())
        strange = altered(certificate, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09")
        self.assertFalse(creator._key_check.accepts(strange))
        self.assertIsInstance(creator.problem, IdentityError)

    def test_a_problem_is_the_last_connections(self) -> None:
        creator = realm_client_creator(ALICE, RealmAddress("h", 1, REALM.pin))
        Handshake(creator.clientConnectionForTLS(None), realm_server_context(MALLORY))
        self.assertIsNotNone(creator.problem)
        Handshake(creator.clientConnectionForTLS(None), realm_server_context(REALM))
        self.assertIsNone(creator.problem)


class Engines:
    """Two devices' ends of a channel, joined in memory."""

    def __init__(self, dialler: TlsEngine, acceptor: TlsEngine, piece_bytes: int = 1 << 20) -> None:
        self.dialler, self.acceptor = dialler, acceptor
        self.piece_bytes = piece_bytes
        dialler.start()
        self.heard = {id(dialler): b"", id(acceptor): b""}
        self.settle()

    def settle(self) -> None:
        """Move records until there are none."""
        moved = True
        while moved:
            moved = False
            for end, other in ((self.dialler, self.acceptor), (self.acceptor, self.dialler)):
                records = end.data_to_send()
                for begin in range(0, len(records), self.piece_bytes):
                    piece = records[begin : begin + self.piece_bytes]
                    self.heard[id(other)] += other.receive_data(piece)
                    moved = True


class TlsEngineTests(SynchronousTestCase):
    def engines(self, piece_bytes: int = 1 << 20) -> Engines:
        """Return two ends that know each other."""
        return Engines(
            ChannelContexts(ALICE).dial(only(BOB)),
            ChannelContexts(BOB).accept(only(ALICE)),
            piece_bytes,
        )

    def test_each_end_has_the_others_key(self) -> None:
        ends = self.engines()
        for end, key in ((ends.dialler, BOB.public_key), (ends.acceptor, ALICE.public_key)):
            self.assertTrue(end.established)
            self.assertFalse(end.closed)
            self.assertIsNone(end.problem)
            self.assertEqual(key, end.peer_key)
        self.assertEqual(ends.dialler.exporter(), ends.acceptor.exporter())

    def test_a_wrong_key_is_refused_by_whoever_expected_another(self) -> None:
        for dial, accept in ((only(MALLORY), take), (take, only(MALLORY))):
            ends = Engines(ChannelContexts(ALICE).dial(dial), ChannelContexts(BOB).accept(accept))
            problems = [end.problem for end in (ends.dialler, ends.acceptor)]
            self.assertEqual(1, sum(isinstance(problem, WrongKeyError) for problem in problems))
            self.assertTrue(ends.dialler.closed and ends.acceptor.closed)
            self.assertFalse(ends.acceptor.established)

    def test_bytes_arrive_whatever_pieces_they_come_in(self) -> None:
        data = bytes(range(256)) * 300
        for piece_bytes in (1, 100, 16_384, 1 << 20):
            ends = self.engines(piece_bytes)
            ends.dialler.send(data)
            ends.acceptor.send(data[::-1])
            ends.settle()
            self.assertEqual(data, ends.heard[id(ends.acceptor)])
            self.assertEqual(data[::-1], ends.heard[id(ends.dialler)])

    def test_an_end_is_told(self) -> None:
        ends = self.engines()
        ends.dialler.send(b"the last word")
        ends.dialler.close()
        ends.settle()
        self.assertEqual(b"the last word", ends.heard[id(ends.acceptor)])
        self.assertTrue(ends.acceptor.closed)
        self.assertIsNone(ends.acceptor.problem)
        ends.acceptor.send(b"too late")
        self.assertEqual(b"", ends.acceptor.receive_data(b"anything"))

    def test_records_that_were_changed_end_it(self) -> None:
        ends = self.engines()
        ends.dialler.send(b"secret")
        records = bytearray(ends.dialler.data_to_send())
        self.assertNotIn(b"secret", records)
        records[-1] ^= 1
        self.assertEqual(b"", ends.acceptor.receive_data(bytes(records)))
        self.assertTrue(ends.acceptor.closed)
        self.assertIsInstance(ends.acceptor.problem, IdentityError)

    def test_records_that_are_repeated_or_missing_end_it(self) -> None:
        for order in ((0, 0), (1,)):
            ends = self.engines()
            records = []
            for word in (b"one", b"two"):
                ends.dialler.send(word)
                records.append(ends.dialler.data_to_send())
            for number in order:
                ends.acceptor.receive_data(records[number])
            self.assertTrue(ends.acceptor.closed)

    def test_bytes_that_are_no_tls_end_it(self) -> None:
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + bytes(70_000),
            b"\x15\x03",
        ):
            end = ChannelContexts(BOB).accept(take)
            self.assertEqual(b"", end.receive_data(data))
            self.assertFalse(end.established)
        end = ChannelContexts(BOB).accept(take)
        end.receive_data(b"GET / HTTP/1.1\r\n\r\n")
        self.assertTrue(end.closed)
        self.assertIsNotNone(end.problem)

    def test_a_realms_connection_is_no_channel(self) -> None:
        creator = realm_client_creator(ALICE, RealmAddress("h", 1, BOB.pin))
        client = creator.clientConnectionForTLS(None)
        handshake = Handshake(client, ChannelContexts(BOB)._servers[DEVICE_ALPN])
        self.assertIsNotNone(handshake.error)
