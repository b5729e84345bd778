"""A client of the message loads: aiomqtt, which is paho-mqtt in asyncio, with QoS 1.

With QoS 1 a message counts as acknowledged when the **broker** has it: that is all that MQTT tells
a sender. Whether the receiver has it too, only an answer of the receiver's application tells.

Made as fast as the library's documentation allows: no limit on messages in flight but the window,
no warning about many calls that wait (each would be a line of log), and no delay of small packets.
As many coroutines as the window has places publish one message after the other, which costs less
than a task for each message.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys

from aiomqtt import Client

from benchmarks.message_client import AHEAD_SECONDS, ANSWER, SENDER, Receiving, Sending, Task

_MESSAGES, _ANSWERS = "messages", "answers"
_QOS = 1
_MOST_IN_FLIGHT = 65_535


async def main(text: str) -> None:
    """Do the task until the process is ended."""
    task = Task.from_json(text)
    client = Client(
        "127.0.0.1",
        int(task.where["port"]),
        identifier=task.role,
        tls_context=_context(task),
        max_inflight_messages=_MOST_IN_FLIGHT,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    client.pending_calls_threshold = _MOST_IN_FLIGHT
    async with client:
        if task.role == SENDER:
            await _send(client, task)
        else:
            await _receive(client, task)


async def _send(client: Client, task: Task) -> None:
    sending = Sending(task)
    waits_for_answer = task.until == ANSWER
    if waits_for_answer:
        await client.subscribe(_ANSWERS, qos=_QOS)
    answers = aiter(client.messages)

    async def one_after_the_other() -> None:
        while (message := sending.take()) is not None:
            await client.publish(_MESSAGES, message, qos=_QOS)
            if waits_for_answer:
                await anext(answers)
            sending.done()
            while sending.is_ahead:
                await asyncio.sleep(AHEAD_SECONDS)
        await asyncio.Event().wait()

    await asyncio.gather(*(one_after_the_other() for _ in range(task.window)))


async def _receive(client: Client, task: Task) -> None:
    receiving = Receiving(task)
    answers = task.until == ANSWER
    await client.subscribe(_MESSAGES, qos=_QOS)
    receiving.ready()
    async for message in client.messages:
        if not isinstance(message.payload, bytes):
            raise ValueError(f"no message of ours: {message.payload!r}")
        receiving.message(message.payload)
        if answers:
            await client.publish(_ANSWERS, message.payload, qos=_QOS)


def _context(task: Task) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cafile=task.where["authority"])
    context.load_cert_chain(task.where["certificate"], task.where["key"])
    return context


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
