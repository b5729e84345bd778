"""Identities to TLS 1.3 connections, every key pinned (spec: channel.md, "TLS").

The one place that knows pyOpenSSL. Certificates carry keys and nothing else that is believed: no
authority, no name, no date; except where a realm's address has no pin, and its certificate is
checked as a web site's is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.ssl import Certificate, KeyPair, PrivateCertificate, TLSVersion
from twisted.internet.ssl import optionsForClientTLS as options_for_client_tls
from zope.interface import implementer

from abst.address import RealmAddress, format_pin, pin_of_key
from abst.errors import AbstError, IdentityError, WrongKeyError
from abst.identity import Identity

REALM_ALPN: Final = b"abst-realm/1"
DEVICE_ALPN: Final = b"abst-device/1"
STREAM_ALPN: Final = b"abst-stream/1"
TLS_HANDSHAKE_BYTE: Final = b"\x16"
"""The first byte of every TLS connection (RFC 8446, 5.1)."""

EXPORTER_LABEL: Final = b"EXPORTER-abst-channel"
EXPORTER_BYTES: Final = 32

_BETWEEN_DEVICES: Final = (DEVICE_ALPN, STREAM_ALPN)

_PARTIAL_WRITE: Final = 0x01
"""SSL_MODE_ENABLE_PARTIAL_WRITE of OpenSSL, which pyOpenSSL sets, and newer ones can clear."""

_READ_BYTES: Final = 16384
_WRITE_BYTES: Final = 65536


CheckKey = Callable[[bytes], None]
"""Called with the other side's SubjectPublicKeyInfo (DER); raises an AbstError to refuse it."""

Admits = Callable[[bytes | None], bool]
"""Called with the TLS server name that a dialler has sent, or None; True to go on with him."""


def key_of(certificate: x509.Certificate) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a certificate's key."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def device_key_of(certificate: crypto.X509 | None) -> bytes:
    """Return the Ed25519 key (DER SubjectPublicKeyInfo) of the certificate that was shown.

    Raises:
        IdentityError: there was none, or it carries another kind of key.
    """
    if certificate is None:
        raise IdentityError("the other side showed no certificate")
    parsed = _parse(certificate)
    if parsed is None or not isinstance(parsed.public_key(), Ed25519PublicKey):
        raise IdentityError("a device's certificate carries an Ed25519 key, this one does not")
    return key_of(parsed)


def _parse(certificate: crypto.X509) -> x509.Certificate | None:
    """Return a certificate whose key can be read, or None."""
    try:
        parsed = certificate.to_cryptography()
        parsed.public_key()
    except Exception:
        # OpenSSL lets pass what cryptography refuses, with errors of many kinds. In a callback of
        # the handshake each of them would be taken for a mistake of ours.
        return None
    return parsed


class _KeyCheck:
    """What one connection's verify callback knows, and what it found wrong."""

    def __init__(self, check: CheckKey, admits: Admits | None = None) -> None:
        self.check = check
        self.admits = admits or (lambda name: False)
        self.problem: AbstError | None = None

    def accepts(self, certificate: crypto.X509) -> bool:
        parsed = _parse(certificate)
        if parsed is None:
            self.problem = IdentityError("the other side's certificate has an unknown kind of key")
            return False
        try:
            self.check(key_of(parsed))
        except AbstError as error:
            self.problem = error
            return False
        return True


def _verify_by_check(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
) -> bool:
    # The leaf's key is proved by the handshake itself; whoever signed it does not matter.
    return depth > 0 or connection.get_app_data().accepts(certificate)


def _verify_device(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
) -> bool:
    if depth > 0:
        return True
    try:
        device_key_of(certificate)
    except IdentityError:
        return False
    return True


def _context(identity: Identity | None, verify: Callable[..., bool] | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # Without this an idle connection keeps 34 KiB of buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if verify is not None:
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    if identity is not None:
        context.use_privatekey(crypto.PKey.from_cryptography_key(identity.private_key))
        context.use_certificate(crypto.X509.from_cryptography(identity.certificate()))
    return context


def _memory_context(identity: Identity | None) -> SSL.Context:
    """Return a context for connections over memory, which take all that is written at once."""
    context = _context(identity, _verify_by_check)
    if hasattr(context, "clear_mode"):
        # One call encrypts as many records as there are.
        context.clear_mode(_PARTIAL_WRITE)
    return context


def _select_alpn(*wanted: bytes) -> Callable[[SSL.Connection, Sequence[bytes]], Any]:
    def select(connection: SSL.Connection, offered: Sequence[bytes]) -> Any:
        for protocol in wanted:
            if protocol in offered:
                return protocol
        raise SSL.Error([("", "", "no ALPN in common")])

    return select


# The realm's port.


def realm_server_context(
    identity: Identity,
    certificate_file: str | None = None,
    key_file: str | None = None,
) -> SSL.Context:
    """Return the context of a realm's port: any Ed25519 certificate, ALPN ``abst-realm/1``.

    Args:
        identity: the realm's own key, used unless both files are given.
        certificate_file: a PEM chain, such as Let's Encrypt's fullchain.pem.
        key_file: its PEM private key.

    Raises:
        IdentityError: the files cannot be used; the text names the file.
    """
    own = identity if certificate_file is None else None
    context = _context(own, _verify_device)
    context.set_alpn_select_callback(_select_alpn(REALM_ALPN))
    if certificate_file is not None and key_file is not None:
        try:
            context.use_certificate_chain_file(certificate_file)
        except SSL.Error:
            raise IdentityError(f"{certificate_file}: no readable PEM certificate") from None
        try:
            context.use_privatekey_file(key_file)
            context.check_privatekey()
        except SSL.Error:
            raise IdentityError(f"{key_file}: not the key of {certificate_file}") from None
    return context


def shown_certificate(context: SSL.Context) -> x509.Certificate:
    """Return the certificate that the connections of a server's context show."""
    certificate = SSL.Connection(context, None).get_certificate()
    assert certificate is not None
    return certificate.to_cryptography()


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnectionCreator:
    """Connections of one server context, for Twisted's own TLS."""

    def __init__(self, context: SSL.Context) -> None:
        self.context = context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return a new server connection over a memory BIO."""
        return SSL.Connection(self.context, None)


# A device's link to a realm.


@implementer(IOpenSSLClientConnectionCreator)
class PinnedRealmCreator:
    """Client connections to a realm whose key is pinned.

    Attributes:
        problem: why the last handshake was refused here, or None.
    """

    def __init__(self, identity: Identity, address: RealmAddress) -> None:
        # Twisted keeps its own object in a connection's app data, so the check is the context's.
        self._context = _context(identity, self._verify)
        self._context.set_alpn_protos([REALM_ALPN])
        self._address = address
        self._key_check = _KeyCheck(self._check)

    @property
    def problem(self) -> AbstError | None:
        """Why the last handshake was refused here, or None."""
        return self._key_check.problem

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return a new client connection that accepts the pinned key alone."""
        connection = SSL.Connection(self._context, None)
        self._key_check.problem = None
        if not _is_ip_address(self._address.host):
            connection.set_tlsext_host_name(self._address.host.encode("idna"))
        return connection

    def _verify(
        self,
        connection: SSL.Connection,
        certificate: crypto.X509,
        error: int,
        depth: int,
        ok: int,
    ) -> bool:
        return depth > 0 or self._key_check.accepts(certificate)

    def _check(self, key: bytes) -> None:
        assert self._address.pin is not None
        found = pin_of_key(key)
        if found != self._address.pin:
            raise WrongKeyError("the realm", format_pin(self._address.pin), format_pin(found))


def realm_client_creator(identity: Identity, address: RealmAddress) -> Any:
    """Return what Twisted's TLS endpoints need to connect to a realm.

    With a pin in the address only the pinned key is accepted. Without, the certificate must be
    valid for the host name by the system's authorities.
    """
    if address.pin is not None:
        return PinnedRealmCreator(identity, address)
    certificate = PrivateCertificate.fromCertificateAndKeyPair(
        Certificate(crypto.X509.from_cryptography(identity.certificate())),
        KeyPair(crypto.PKey.from_cryptography_key(identity.private_key)),
    )
    return options_for_client_tls(
        address.host,
        clientCertificate=certificate,
        acceptableProtocols=[REALM_ALPN],
        extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_3},
    )


def _is_ip_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


# A channel or a stream between two devices.


class ChannelContexts:
    """The contexts from which one identity's channels and streams are made.

    A port that anybody can reach shows its certificate, and with it its device's ID, only to those
    whose server name is a knock that it admits; all others see a handshake that fails.

    Args:
        identity: whose channels.
    """

    def __init__(self, identity: Identity) -> None:
        self._clients = {alpn: _memory_context(identity) for alpn in _BETWEEN_DEVICES}
        self._servers = {alpn: _memory_context(identity) for alpn in _BETWEEN_DEVICES}
        for alpn in _BETWEEN_DEVICES:
            self._clients[alpn].set_alpn_protos([alpn])
            self._servers[alpn].set_alpn_select_callback(_select_alpn(alpn))
        self._admitted = _memory_context(identity)
        self._admitted.set_alpn_select_callback(_select_alpn(*_BETWEEN_DEVICES))
        # Without a certificate no handshake gets through: only a knock leads to one.
        self._port = _memory_context(None)
        self._port.set_alpn_select_callback(_select_alpn(*_BETWEEN_DEVICES))
        self._port.set_tlsext_servername_callback(self._open_door)

    def _open_door(self, connection: SSL.Connection) -> None:
        if connection.get_app_data().admits(connection.get_servername()):
            connection.set_context(self._admitted)

    def dial(
        self, check: CheckKey, server_name: bytes | None = None, *, alpn: bytes = DEVICE_ALPN
    ) -> TlsEngine:
        """Return the dialling side (TLS client) of a new channel or stream.

        Args:
            check: decides on the other side's key.
            server_name: the knock, for a port that wants one.
            alpn: what is going to be spoken inside.
        """
        connection = SSL.Connection(self._clients[alpn], None)
        connection.set_connect_state()
        if server_name is not None:
            connection.set_tlsext_host_name(server_name)
        return TlsEngine(connection, check)

    def accept(
        self, check: CheckKey, admits: Admits | None = None, *, alpn: bytes = DEVICE_ALPN
    ) -> TlsEngine:
        """Return the accepting side (TLS server) of a new channel or stream.

        Args:
            check: decides on the other side's key.
            admits: decides on the server name that the dialler sends, for a port on which the
                dialler also chooses between the two; None when no name is needed.
            alpn: what is going to be spoken inside, when the dialler has no choice.
        """
        context = self._servers[alpn] if admits is None else self._port
        connection = SSL.Connection(context, None)
        connection.set_accept_state()
        return TlsEngine(connection, check, admits)


class TlsEngine:
    """One TLS connection without a socket: records in, plaintext out, and the other way round.

    Each direction ends on its own (RFC 8446, 6.1).

    Attributes:
        established: the handshake is done and the other side's key has passed the check.
        ended: the other side has said that nothing more comes from it.
        problem: why the connection failed, or None.
        alpn: what is spoken inside, once established.
        peer_key: the other side's DER SubjectPublicKeyInfo once established.
    """

    def __init__(
        self, connection: SSL.Connection, check: CheckKey, admits: Admits | None = None
    ) -> None:
        self._connection = connection
        self._key_check = _KeyCheck(check, admits)
        connection.set_app_data(self._key_check)
        self._has_output = False
        self._output_ended = False
        self.established = False
        self.ended = False
        self.problem: AbstError | None = None
        self.alpn = b""
        self.peer_key = b""

    @property
    def closed(self) -> bool:
        """Whether either side has ended its direction, or the connection has failed."""
        return self.ended or self._output_ended or self.problem is not None

    def start(self) -> None:
        """Begin the handshake; ``data_to_send`` has the first record."""
        self._has_output = True
        self._shake_hands()

    def receive_data(self, records: bytes) -> bytes:
        """Take bytes from the carrier; return the plaintext that they hold, maybe none."""
        plaintext: list[bytes] = []
        if not records or self.ended or self.problem is not None:
            return b""
        # A memory BIO takes what it is given, so one write is enough.
        self._connection.bio_write(records)
        self._has_output = True
        if not self.established and not self._shake_hands():
            return b""
        receive = self._connection.recv
        while True:
            try:
                plaintext.append(receive(_READ_BYTES))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self.ended = True
                break
            except SSL.Error as error:
                self._fail(error)
                break
        return plaintext[0] if len(plaintext) == 1 else b"".join(plaintext)

    def send(self, plaintext: bytes) -> None:
        """Encrypt plaintext; ``data_to_send`` has the records. Only once established."""
        self._has_output = True
        view = memoryview(plaintext)
        while view and not self._output_ended and self.problem is None:
            try:
                view = view[self._connection.send(view) :]
            except SSL.Error as error:
                self._fail(error)

    def data_to_send(self) -> bytes:
        """Return the bytes to hand to the carrier; b"" when there are none."""
        pieces: list[bytes] = []
        # To be told by an exception that there is nothing costs as much as to encrypt a message.
        while self._has_output:
            try:
                piece = self._connection.bio_read(_WRITE_BYTES)
            except SSL.Error:
                self._has_output = False
            else:
                pieces.append(piece)
                self._has_output = len(piece) == _WRITE_BYTES
        return b"".join(pieces)

    def close(self) -> None:
        """Say that nothing more comes from this side; ``data_to_send`` has the alert."""
        self._has_output = True
        if self.established and not self._output_ended and self.problem is None:
            try:
                self._connection.shutdown()
            except SSL.Error as error:
                self._fail(error)
        self._output_ended = True

    def exporter(self) -> bytes:
        """Return 32 bytes that both ends of this very connection share (RFC 8446, 7.5)."""
        return self._connection.export_keying_material(EXPORTER_LABEL, EXPORTER_BYTES, b"")

    def _shake_hands(self) -> bool:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            self._fail(error)
            return False
        self.alpn = self._connection.get_alpn_proto_negotiated()
        if self.alpn not in _BETWEEN_DEVICES:
            self.problem = IdentityError("the other side speaks another protocol (ALPN)")
            return False
        try:
            self.peer_key = device_key_of(self._connection.get_peer_certificate())
        except IdentityError as problem:
            self.problem = problem
            return False
        self.established = True
        return True

    def _fail(self, error: SSL.Error) -> None:
        words = ", ".join(part[-1] for part in error.args[0]) if error.args else "closed"
        self.problem = self._key_check.problem or IdentityError(f"TLS failed: {words}")
