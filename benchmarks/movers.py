"""What the files load asks of a program that gives files to another device.

What already runs when somebody sends a file *stands*: servers and agents. What they type is a
*command*, and all of that counts, from its start to its end. Each belongs to a role: the sender's
side, the receiver's side, or what relays between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.process import ServerProcess

SENDER, RECEIVER, RELAY = "sender", "receiver", "relay"
ROLES = (SENDER, RECEIVER, RELAY)


@dataclass(frozen=True)
class Prepared:
    """Everything that a transfer needs, up and running."""

    #: Role and process.
    standing: Sequence[tuple[str, ServerProcess]]
    #: Role and command line, all to be started at once.
    commands: Sequence[tuple[str, Sequence[str]]]
    #: The folder in or below which the file arrives, under its own name.
    inbox: Path
    #: Where the commands run, and the variables that they get.
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Mover(Protocol):
    """One kind of program."""

    name: str
    version: str

    def prepare(self, file: Path, folder: Path) -> AbstractContextManager[Prepared]:
        """Start what stands, with its files in ``folder``, to send ``file``; stop it at the end.

        Raises: ServerFailed.
        """
