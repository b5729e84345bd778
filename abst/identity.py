"""A device's identity: an Ed25519 key, its certificate, its device ID (spec: identity.md).

Owns making, loading and saving the key. The certificate is made anew from the key whenever it is
needed: it is self-signed, always the same, and says nothing about its owner.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from abst.address import pin_of_key
from abst.device_id import DeviceID
from abst.errors import IdentityError

_NOT_BEFORE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280: no end
_SERIAL_BYTES = 16
_MAX_KEY_FILE_BYTES = 10_000


class Identity:
    """Who a device, or a realm, is.

    Attributes:
        private_key: the Ed25519 key.
        public_key: its DER SubjectPublicKeyInfo, 44 bytes.
        device_id: the ID that this key proves.
        pin: SHA-256 of the public key, 32 bytes; what a realm's address carries.
    """

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.private_key = private_key
        self.public_key = private_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self.device_id = DeviceID.of_key(self.public_key)
        self.pin = pin_of_key(self.public_key)

    def __repr__(self) -> str:
        return f"<Identity {self.device_id}>"

    @classmethod
    def generate(cls) -> Identity:
        """Make a new identity; nothing is written anywhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read an identity from a PEM file that only its owner can read.

        Raises:
            IdentityError: there is no such file, it holds no Ed25519 key, or others may read it.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read(_MAX_KEY_FILE_BYTES)
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror}") from None
        if mode & 0o077:
            raise IdentityError(
                f"{path}: others may read this key (mode {mode:04o}); run: chmod 600 {path}"
            )
        try:
            key = load_pem_private_key(text, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise IdentityError(f"{path}: holds no private key in PEM form") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(f"{path}: an identity is an Ed25519 key, this is another kind")
        return cls(key)

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read an identity, or make one and write it when the file does not exist.

        Raises:
            IdentityError: as ``load``, or the file cannot be written.
        """
        with contextlib.suppress(FileExistsError):
            if not os.path.lexists(path):
                identity = cls.generate()
                identity.save(path)
                return identity
        return cls.load(path)

    def save(self, path: Path) -> None:
        """Write the key to a new file with mode 0600, whole or not at all.

        Raises:
            FileExistsError: the file exists; an identity is never overwritten.
            IdentityError: the folder cannot be written.
        """
        try:
            # Its name is random: one made of the process's number would meet, in a container, the
            # draft that the process 1 before this one has left behind. Its mode is 0600.
            descriptor, draft = tempfile.mkstemp(prefix=".identity-", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self.to_pem())
                    file.flush()
                    os.fsync(file.fileno())
                # A hard link, unlike a rename, refuses to replace what another process just made.
                os.link(draft, path)
            finally:
                os.unlink(draft)
            _sync_folder(path.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror}") from None

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 PEM (RFC 5958), not encrypted."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def certificate(self) -> x509.Certificate:
        """Return the self-signed certificate, which the key alone determines."""
        nobody = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ABST")])
        return (
            x509.CertificateBuilder()
            .subject_name(nobody)
            .issuer_name(nobody)
            .public_key(self.private_key.public_key())
            .serial_number(int.from_bytes(self.pin[:_SERIAL_BYTES], "big") | 1)
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .sign(self.private_key, None)
        )


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a new file's own sync does not include its name."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
