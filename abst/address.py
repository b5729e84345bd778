"""Addresses: a realm's ``abst://HOST:PORT/?pin=...`` (spec: identity.md), a device's ``HOST:PORT``.

Pure: parses and writes addresses; resolves and connects nothing. A realm's address may carry an
invitation, which is a secret: only ``link`` writes it, and no error shows it.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlencode, urlsplit

from abst.errors import AddressError

DEFAULT_PORT = 42278
PIN_BYTES = 32
INVITATION_BYTES = 16
MAX_ADDRESS_CHARACTERS = 500

_MAX_HOST_CHARACTERS = 253
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_MAY_BE_SECRET = re.compile(r"\?|invitation", re.IGNORECASE)
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class RealmAddress:
    """Where a realm listens, and which key it must prove.

    Attributes:
        host: a host name in ASCII or an IP address, IPv6 without brackets.
        port: the TCP port.
        pin: SHA-256 of the realm's SubjectPublicKeyInfo (32 bytes); None when the realm's
            certificate is checked against the system's authorities and the host name instead.
        invitation: the secret by which the realm lets a new device in (22 letters of base64url),
            or None. It is no part of what the address is: two that differ in it are equal.
    """

    host: str
    port: int = DEFAULT_PORT
    pin: bytes | None = None
    invitation: str | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> RealmAddress:
        """Return the address that a text such as ``abst://example.org/?pin=...`` names.

        Raises:
            AddressError: the text is no such address; the message says what is wrong.
        """
        text = text.strip()
        if len(text) > MAX_ADDRESS_CHARACTERS:
            raise AddressError("a realm's address is much shorter than this")
        quoted = shown(text)
        # urlsplit drops line breaks and tabs; an address with one in it was copied badly.
        if not text.isprintable() or " " in text:
            raise AddressError(f"{quoted} has a blank in it: copy the whole address again")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise AddressError(f"{quoted} is no address: its host or port is wrong") from None
        if parts.scheme != "abst" or not host:
            raise AddressError(f"{quoted} is no realm's address: it begins with abst://HOST")
        if parts.path not in ("", "/") or parts.fragment or parts.username is not None:
            raise AddressError(f"{quoted} has more than abst://HOST:PORT/?pin=...")
        if port == 0:
            raise AddressError(f"{quoted} names port 0: a realm listens on 1-65535")
        found: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in ("pin", "invitation"):
                raise AddressError(
                    f"{quoted} has a part that is not known here: it may have pin and invitation"
                )
            if name in found:
                raise AddressError(f"{quoted} has two {name}s: only one can be right")
            found[name] = value
        pin = invitation = None
        if "pin" in found:
            pin = _parse_base64(found["pin"], PIN_BYTES, "pin")
        if "invitation" in found:
            _parse_base64(found["invitation"], INVITATION_BYTES, "invitation")
            invitation = found["invitation"]
        port = DEFAULT_PORT if port is None else port
        return cls(_parse_host(host), port, pin, invitation)

    @classmethod
    def parse_told(cls, text: str) -> RealmAddress:
        """Return an address that another device has told; it never carries an invitation.

        Raises:
            AddressError: the text is no address, or one with an invitation.
        """
        address = cls.parse(text)
        if address.invitation is not None:
            raise AddressError("devices tell each other no invitations: 'abst realm add' takes one")
        return address

    @property
    def without_invitation(self) -> RealmAddress:
        """The address alone."""
        return replace(self, invitation=None)

    @property
    def link(self) -> str:
        """The whole text, with the invitation if there is one: as secret as that."""
        query = {} if self.pin is None else {"pin": format_pin(self.pin)}
        if self.invitation is not None:
            query["invitation"] = self.invitation
        return self._text(query)

    def __str__(self) -> str:
        return self._text({} if self.pin is None else {"pin": format_pin(self.pin)})

    def _text(self, query: dict[str, str]) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"abst://{host}:{self.port}/" + (f"?{urlencode(query)}" if query else "")


def pin_of_key(subject_public_key_info: bytes) -> bytes:
    """Return the pin (32 bytes) of the key whose DER SubjectPublicKeyInfo is given."""
    return hashlib.sha256(subject_public_key_info).digest()


def format_pin(pin: bytes) -> str:
    """Return a pin as it is written: base64url without padding (RFC 4648, section 5)."""
    return _base64(pin)


def parse_host_port(text: str) -> tuple[str, int]:
    """Return the host and the port where a device listens for its peers.

    Args:
        text: ``192.0.2.7:4000``, ``[2001:db8::1]:4000``, ``[fe80::1%eth0]:4000`` or
            ``name.local:4000``.

    Raises:
        AddressError: the text is no such address; the message says what is wrong.
    """
    text = text.strip()
    if len(text) > MAX_ADDRESS_CHARACTERS or not text.isprintable():
        raise AddressError("a device's address is HOST:PORT, and much shorter than this")
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise AddressError(
            f"{text!r} is no address of a device: it is HOST:PORT, with port 1-65535"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(
            f"{text!r}: an IPv6 address stands in brackets, as in [2001:db8::1]:4000"
        )
    return _parse_host(host), int(port)


def format_host_port(host: str, port: int) -> str:
    """Return the text that ``parse_host_port`` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_host(text: str) -> str:
    try:
        if ":" in text:
            return str(ipaddress.IPv6Address(text))
        host = text.encode("idna").decode("ascii").lower()
    except ValueError:
        host = ""
    if len(host) > _MAX_HOST_CHARACTERS or not _HOST_NAME.fullmatch(host):
        raise AddressError(f"{shown(text)} is no host name and no IP address")
    return host


def _parse_base64(text: str, size: int, what: str) -> bytes:
    """Return the bytes that base64url without padding stands for, in its one form."""
    try:
        # b64decode drops letters that it does not know, so compare what it read with the text.
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if len(found) == size and _base64(found) == text:
            return found
    except ValueError:
        pass
    letters = len(_base64(bytes(size)))
    raise AddressError(
        f"the {what} is not {letters} letters of base64url: copy the whole address again"
    )


def shown(text: str) -> str:
    """Return, in quotes, what errors may show of a text: also a wrong invitation is a secret."""
    return repr(_MAY_BE_SECRET.split(text, maxsplit=1)[0])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
