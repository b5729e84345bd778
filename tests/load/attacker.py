"""A process of strangers that attack a realm, within bounds of rate, number and time.

Prints what came of it, a JSON object, when the time is over. It is nice to others (nice(2)): an
attacker elsewhere takes nothing of the realm's own processor.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import ssl
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from abst.identity import Identity
from abst.open_files import allow_open_files
from tests.integration.raw_client import ALPN, client_context
from tests.load.attacks import ATTACKS, Target
from tests.load.people import person

STRANGER = 1_000_000
"""The number of a device that nobody has invited."""

NICENESS = 19
SPARE_FILES = 100
LARGE_BYTES = 90_000
"""OpenSSL takes chains of 100 kilobytes."""


class Attacker:
    """Starts attacks at an even pace, and counts them.

    Args:
        asked: the command line.
    """

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._addresses = itertools.cycle(asked.address or ["127.0.0.1"])
        self._attacks = itertools.cycle(asked.attack)
        self._stranger = person(STRANGER)
        self._context = client_context(self._stranger)
        self._large_context = large_context(self._stranger)
        self._running: set[asyncio.Task[None]] = set()
        self._tried = self._skipped = self._most_at_once = 0
        self._failures: Counter[str] = Counter()

    async def run(self) -> dict[str, Any]:
        """Attack, and return what came of it."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        until = begun + self._asked.seconds
        for number in itertools.count():
            due = begun + number / self._asked.each_second
            if due > until:
                break
            await asyncio.sleep(max(0.0, due - loop.time()))
            if loop.time() > until:
                break
            if len(self._running) >= self._asked.at_once:
                self._skipped += 1
                continue
            self._tried += 1
            task = asyncio.create_task(self._attack_once(until))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            self._most_at_once = max(self._most_at_once, len(self._running))
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        return {
            "tried": self._tried,
            "skipped": self._skipped,
            "most_at_once": self._most_at_once,
            "failures": dict(self._failures),
        }

    async def _attack_once(self, until: float) -> None:
        target = Target(
            self._asked.host,
            self._asked.port,
            next(self._addresses),
            until,
            self._context,
            self._large_context,
            bytes(self._stranger.device_id),
        )
        try:
            await ATTACKS[next(self._attacks)](target)
        except (OSError, EOFError) as problem:
            self._failures[type(problem).__name__] += 1


def large_context(identity: Identity) -> ssl.SSLContext:
    """Return a context that shows a certificate with much in it that nobody needs."""
    nobody = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    plain = identity.certificate()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(nobody)
        .issuer_name(nobody)
        .public_key(identity.private_key.public_key())
        .serial_number(1)
        .not_valid_before(plain.not_valid_before_utc)
        .not_valid_after(plain.not_valid_after_utc)
        .add_extension(
            x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.1"), bytes(LARGE_BYTES)),
            critical=False,
        )
        .sign(identity.private_key, None)
    )
    context = client_context(None)
    context.set_alpn_protocols([ALPN])
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder, "chain.pem")
        chain.write_bytes(identity.to_pem() + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(chain)
    return context


def main() -> None:
    """Attack as asked, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--attack", action="append", choices=ATTACKS, required=True)
    parser.add_argument("--address", action="append", default=[], help="to connect from")
    parser.add_argument("--each-second", type=float, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asked = parser.parse_args()
    os.nice(NICENESS)
    allow_open_files(asked.at_once + SPARE_FILES)
    attacker = Attacker(asked)
    found = asyncio.run(attacker.run())
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
