"""Devices that are the same in every process of a scenario: keys made from a number."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from abst.identity import Identity


def person(number: int) -> Identity:
    """Return the device with that number: no secret, and no use outside of these tests."""
    seed = sha256(b"a device of the load tests, %d" % number).digest()
    return Identity(Ed25519PrivateKey.from_private_bytes(seed))


def people(count: int) -> list[Identity]:
    """Return the first so many devices."""
    return [person(number) for number in range(count)]


def addresses(count: int, network: str = "127.42") -> list[str]:
    """Return so many addresses of a /16, of this very machine unless told otherwise."""
    return [f"{network}.{number // 250}.{number % 250 + 1}" for number in range(count)]
