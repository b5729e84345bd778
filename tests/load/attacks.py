"""What a stranger may do to a realm's port, one connection at a time.

Each attack is a coroutine that opens one connection, does its harm with it, and closes it. How many
there are at once is the attacker's business (``attacker``). None of them reads the realm's code:
they send bytes that the specification names, and bytes that it does not.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgpack

from tests.integration.raw_client import client_hello
from tests.load.people import person

HANDSHAKE_HEAD = b"\x16\x03\x01"
RECORD_BYTES = 16384
HELLO_FILLING_BYTES = 3900
SLOW_SECONDS = 0.5
READ_BYTES = 65536


@dataclass
class Target:
    """A realm as a stranger sees it.

    Attributes:
        host, port: where it listens.
        source: the address to connect from.
        until: when the attack ends, in the loop's time.
        context: shows a certificate that the realm does not know.
        large_context: shows one of 90 kilobytes.
        device_id: what the first certificate proves.
    """

    host: str
    port: int
    source: str
    until: float
    context: ssl.SSLContext
    large_context: ssl.SSLContext
    device_id: bytes

    async def connect(
        self, context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection, with TLS when there is a context for it."""
        return await asyncio.open_connection(
            self.host, self.port, local_addr=(self.source, 0), ssl=context
        )

    async def rest(self) -> None:
        """Do nothing until the attack ends."""
        await asyncio.sleep(max(0.0, self.until - asyncio.get_running_loop().time()))


Attack = Callable[[Target], Awaitable[None]]


async def touch(target: Target) -> None:
    """Connect, and close at once."""
    _, writer = await target.connect()
    writer.transport.abort()


async def be_silent(target: Target) -> None:
    """Connect, and say nothing until the realm closes."""
    reader, writer = await target.connect()
    await _until_closed(target, reader, writer)


async def drip(target: Target) -> None:
    """Send a handshake byte by byte, so slowly that it never ends."""
    _, writer = await target.connect()
    for byte in client_hello():
        if asyncio.get_running_loop().time() > target.until:
            break
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(SLOW_SECONDS)
    writer.transport.abort()


async def stop_in_the_middle(target: Target) -> None:
    """Have the realm sign, which is the dear part of a handshake, and go on no further."""
    reader, writer = await target.connect()
    writer.write(client_hello())
    await reader.read(READ_BYTES)
    await _until_closed(target, reader, writer)


async def leave_in_the_middle(target: Target) -> None:
    """Have the realm sign, and close."""
    reader, writer = await target.connect()
    writer.write(client_hello())
    await reader.read(READ_BYTES)
    writer.transport.abort()


async def promise_a_record(target: Target) -> None:
    """Send all but the end of the largest handshake message that fits in a record, and wait."""
    reader, writer = await target.connect()
    body = b"\x01" + (RECORD_BYTES * 6).to_bytes(3, "big") + os.urandom(RECORD_BYTES - 5)
    writer.write(HANDSHAKE_HEAD + RECORD_BYTES.to_bytes(2, "big") + body)
    await _until_closed(target, reader, writer)


async def send_records(target: Target) -> None:
    """Send one full record of nothing after the other, as the first."""
    reader, writer = await target.connect()
    for _ in range(16):
        record = os.urandom(RECORD_BYTES)
        writer.write(HANDSHAKE_HEAD + RECORD_BYTES.to_bytes(2, "big") + record)
        await writer.drain()
    await _until_closed(target, reader, writer)


async def show_a_large_certificate(target: Target) -> None:
    """Do a whole handshake with a certificate as large as OpenSSL takes it."""
    reader, writer = await target.connect(target.large_context)
    writer.write(_hello(target))
    await _until_closed(target, reader, writer)


async def guess_an_invitation(target: Target) -> None:
    """Say Hello with an invitation that is none, in as many bytes as it may have."""
    reader, writer = await target.connect(target.context)
    writer.write(_hello(target, filling=os.urandom(HELLO_FILLING_BYTES)))
    await _until_closed(target, reader, writer)


async def speak_before_hello(target: Target) -> None:
    """Send packets that are not Hello, a megabyte of them."""
    reader, writer = await target.connect(target.context)
    packet = msgpack.packb({"packet_id": 2, "source_device": target.device_id})
    for _ in range(64):
        writer.write(packet * (RECORD_BYTES // len(packet)))
        await writer.drain()
    await _until_closed(target, reader, writer)


async def speak_behind_hello(target: Target) -> None:
    """Send Hello with packets to everybody behind it, and do not wait for the answer."""
    reader, writer = await target.connect(target.context)
    packet = msgpack.packb(
        {
            "packet_id": 2,
            "source_device": target.device_id,
            "target_device": bytes(person(0).device_id),
            "content": b"from nobody",
        }
    )
    writer.write(_hello(target) + packet * 1000)
    await _until_closed(target, reader, writer)


async def promise_a_packet(target: Target) -> None:
    """Promise a map of maps, nearly four kilobytes of it, before Hello, and wait."""
    reader, writer = await target.connect(target.context)
    writer.write(b"\x81\xa1k\xdc\x10\x00" + b"\x90" * 4000)
    await _until_closed(target, reader, writer)


async def speak_another_language(target: Target) -> None:
    """Ask for a web page."""
    reader, writer = await target.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: realm.example.org\r\n\r\n")
    await _until_closed(target, reader, writer)


async def bring_a_wrong_token(target: Target) -> None:
    """Claim to be the leg of a circuit."""
    reader, writer = await target.connect()
    writer.write(msgpack.packb({"packet_id": 1, "content": {"token": os.urandom(32)}}))
    await _until_closed(target, reader, writer)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        touch,
        be_silent,
        drip,
        stop_in_the_middle,
        leave_in_the_middle,
        promise_a_record,
        send_records,
        show_a_large_certificate,
        guess_an_invitation,
        speak_before_hello,
        speak_behind_hello,
        promise_a_packet,
        speak_another_language,
        bring_a_wrong_token,
    )
}


async def _until_closed(
    target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Read until the realm closes or the attack is over, and cut the connection off."""
    try:
        left = max(0.0, target.until - asyncio.get_running_loop().time())
        async with asyncio.timeout(left):
            while await reader.read(READ_BYTES):
                pass
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


def _hello(target: Target, filling: bytes = b"") -> bytes:
    """Return a Hello with an invitation that is none, and with bytes that mean nothing."""
    content = {"device_id": target.device_id, "version": 1, "invitation": os.urandom(11).hex()}
    packet: bytes = msgpack.packb({"packet_id": 0, "content": content, "filling": filling})
    return packet
