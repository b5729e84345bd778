"""``wormhole send``, with a mailbox server and a transit relay of its own on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.movers import RECEIVER, RELAY, SENDER, Prepared
from benchmarks.process import unused_port
from benchmarks.relays import started
from benchmarks.transit_relay import TransitRelay
from benchmarks.wormhole import WORMHOLE_FOLDER, version_of

_CODE = "7-benchmark-run"


class WormholeFiles:
    """The command line and the servers in the virtual environment of magic-wormhole."""

    name = "wormhole"

    def __init__(self) -> None:
        """Find the packages. Raises: ServerNotInstalled."""
        mailbox = version_of("magic-wormhole-mailbox-server")
        self._relay = TransitRelay()
        version = version_of("magic-wormhole")
        self.version = f"{version}, mailbox {mailbox}, transit-relay {self._relay.version}"

    @contextlib.contextmanager
    def prepare(self, file: Path, folder: Path) -> Iterator[Prepared]:
        """Start both servers; see :class:`benchmarks.movers.Mover`.

        Neither side listens, so that they meet at the relay, and both have the code beforehand.
        """
        folders = [folder / name for name in ("transit", "mailbox", "inbox")]
        for each in folders:
            each.mkdir()
        transit_folder, mailbox_folder, inbox = folders
        port = unused_port()
        listen = f"--port=tcp:{port}:interface=127.0.0.1"
        twist = str(WORMHOLE_FOLDER / "twist")
        with (
            self._relay.start(transit_folder) as relay,
            started([twist, "wormhole-mailbox", listen], mailbox_folder, port) as mailbox,
        ):
            client = [str(WORMHOLE_FOLDER / "wormhole")]
            client += ["--relay-url", f"ws://127.0.0.1:{port}/v1"]
            client += ["--transit-helper", f"tcp:127.0.0.1:{relay.port}"]
            hidden = ["--hide-progress", "--no-listen"]
            send = [*client, "send", *hidden, "--no-qr", "--code", _CODE, str(file)]
            receive = [*client, "receive", *hidden, "--accept-file", "-o", str(inbox), _CODE]
            yield Prepared(
                standing=[(RELAY, relay), (RELAY, mailbox)],
                commands=[(SENDER, send), (RECEIVER, receive)],
                inbox=inbox,
                cwd=folder,
            )
