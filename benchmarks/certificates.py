"""Make the keys and certificates that a run needs; every key is Ed25519, and none outlives the run.

The brokers get a certificate authority, one certificate for the server and one for all clients. A
realm's devices get one self-signed certificate each, and their ID from its key as
``docs/spec/`` has it. This is written apart from the package ``abst``: a benchmark looks at the
wire from outside, and would not notice a mistake that it shares with what it measures.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

_LIFETIME = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Authority:
    """The files of a small certificate authority: its certificate, a server's pair, a client's."""

    certificate: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path


def make_authority(folder: Path) -> Authority:
    """Write an authority's files into ``folder``; the server's certificate is for 127.0.0.1."""
    folder.mkdir(mode=0o700)
    files = Authority(
        *(
            folder / name
            for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
        )
    )
    ca_key = ed25519.Ed25519PrivateKey.generate()
    ca_name = _name("benchmark authority")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, None)
    )
    _write_certificate(files.certificate, ca)
    for common_name, certificate_file, key_file in (
        ("benchmark server", files.server_certificate, files.server_key),
        ("benchmark client", files.client_certificate, files.client_key),
    ):
        key = ed25519.Ed25519PrivateKey.generate()
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        leaf = (
            _builder(_name(common_name), ca_name, key.public_key())
            .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
            .sign(ca_key, None)
        )
        _write_certificate(certificate_file, leaf)
        _write_key(key_file, key)
    return files


@dataclass(frozen=True)
class DeviceIdentity:
    """A device's ID, the file with its key and certificate, and the certificate in DER."""

    device_id: bytes
    file: Path
    certificate: bytes


def make_device(file: Path) -> DeviceIdentity:
    """Write a new device's key and certificate into ``file``."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = _name("benchmark device")
    certificate = _builder(name, name, key.public_key()).sign(key, None)
    _write_key(file, key)
    with file.open("ab") as output:
        output.write(certificate.public_bytes(serialization.Encoding.PEM))
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    return DeviceIdentity(device_id_of(key.public_key()), file, encoded)


def device_id_of(key: ed25519.Ed25519PublicKey) -> bytes:
    """Return the UUID, version 8, made of the SHA-256 of a key's SubjectPublicKeyInfo."""
    public = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = bytearray(hashlib.sha256(public).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)


def client_context(certificate: Path, key: Path | None, authority: Path | None) -> ssl.SSLContext:
    """Return a TLS 1.3 client's context; without an authority it takes any certificate.

    No host name is checked: all servers are the benchmark's own, on the loopback interface, and
    what the client checks costs the server nothing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cafile=str(authority))
    context.load_cert_chain(str(certificate), None if key is None else str(key))
    return context


def key_type_of(certificate: bytes) -> str:
    """Return the kind of key in a DER certificate, in a word or two."""
    match x509.load_der_x509_certificate(certificate).public_key():
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ec.EllipticCurvePublicKey() as key:
            return f"ECDSA {key.curve.name}"
        case rsa.RSAPublicKey() as key:
            return f"RSA {key.key_size}"
        case key:
            return type(key).__name__


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ed25519.Ed25519PublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
    )


def _write_certificate(file: Path, certificate: x509.Certificate) -> None:
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(file: Path, key: ed25519.Ed25519PrivateKey) -> None:
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
