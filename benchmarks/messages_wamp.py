"""A client of the message loads: autobahn on Twisted, which talks WAMP.

The transport is a raw socket with MessagePack, the leanest that there is. A message counts as
acknowledged when the **router** has acknowledged the publication; whether the receiver has it too,
only the answer to a call tells. So messages that are to be answered are calls, and the others are
events.

This runs in crossbar's own virtual environment: benchmarks.message_client is all that it may use
of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from autobahn.twisted.component import Component
from autobahn.wamp.types import PublishOptions
from twisted.internet.defer import Deferred
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    trustRootFromCertificates,
)
from twisted.internet.task import react

from benchmarks.message_client import AHEAD_SECONDS, ANSWER, SENDER, Receiving, Sending, Task

_NAME = "benchmark.messages"


async def main(reactor: Any, text: str) -> None:
    """Do the task until the process is ended."""
    task = Task.from_json(text)
    transport = {
        "type": "rawsocket",
        "url": f"rs://127.0.0.1:{task.where['port']}",
        "serializer": "msgpack",
        "endpoint": {
            "type": "tcp",
            "host": "127.0.0.1",
            "port": int(task.where["port"]),
            "tls": _context(task),
        },
    }
    component = Component(transports=[transport], realm="benchmark")

    async def joined(session: Any, _: object) -> None:
        if task.role == SENDER:
            _send(reactor, session, task)
        else:
            await _receive(session, task)

    component.on_join(joined)
    component.start(reactor)
    await Deferred()


def _send(reactor: Any, session: Any, task: Task) -> None:
    sending = Sending(task)
    options = PublishOptions(acknowledge=True)
    waits_for_answer = task.until == ANSWER

    def send() -> None:
        message = sending.take()
        if message is None:
            return
        if waits_for_answer:
            sent = session.call(_NAME, message)
        else:
            sent = session.publish(_NAME, message, options=options)
        sent.addCallback(done)

    def done(_: object) -> None:
        sending.done()
        go_on()

    def go_on() -> None:
        if sending.is_ahead:
            reactor.callLater(AHEAD_SECONDS, go_on)
        else:
            send()

    for _ in range(task.window):
        send()


async def _receive(session: Any, task: Task) -> None:
    receiving = Receiving(task)

    def answer(message: bytes) -> bytes:
        receiving.message(message)
        return message

    if task.until == ANSWER:
        await session.register(answer, _NAME)
    else:
        await session.subscribe(receiving.message, _NAME)
    receiving.ready()


def _context(task: Task) -> CertificateOptions:
    own = PrivateCertificate.loadPEM(
        Path(task.where["key"]).read_bytes() + Path(task.where["certificate"]).read_bytes()
    )
    authority = Certificate.loadPEM(Path(task.where["authority"]).read_bytes())
    return CertificateOptions(
        privateKey=own.privateKey.original,
        certificate=own.original,
        trustRoot=trustRootFromCertificates([authority]),
        raiseMinimumTo=TLSVersion.TLSv1_3,
    )


if __name__ == "__main__":
    react(main, sys.argv[1:])
