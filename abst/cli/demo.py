"""``abst demo``: a realm and two devices on this machine, and a file each way, told as a story.

Owns the story and its verdict. The realm and the agents are processes of their own, and everything
that the devices do is done by the commands that a person would type.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from abst.cli.demo_record import Finding, search_record
from abst.cli.demo_stage import Stage, on_a_stage
from abst.cli.example import WithExample
from abst.cli.output import human_size, note, printable, quantity, show
from abst.cli.processes import python_command
from abst.errors import AbstError

LARGE_FILE_BYTES: Final = 1_000_000
COMMAND_SECONDS: Final = 60.0
READY_SECONDS: Final = 30.0
_REALM: Final = "realm"

MESSAGE: Final = "The kettle is on, and nobody else shall know."
LETTER_NAME: Final = "where-the-key-lies.txt"
LETTER: Final = "The key lies under the third flower pot, and the realm must never learn it.\n" * 20


class DemoFailedError(AbstError):
    """Something that the story promises did not hold."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One of the two devices.

    Attributes:
        name: what it is called.
        stage: where it acts.
    """

    name: str
    stage: Stage

    def run(self, *arguments: str, timeout_seconds: float | None = COMMAND_SECONDS) -> str:
        """Show a command and what it says, and return what it printed.

        Raises:
            DemoFailedError: it failed.
        """
        words = f"abst {shlex.join(arguments)}"
        command = self.command(*arguments)
        return _run_shown(self.stage, self.name, words, command, timeout_seconds)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a command, as a process is started with it."""
        home = self.stage.folder / self.name
        return python_command("abst.cli", "--home", str(home), *arguments)

    def is_up(self) -> bool:
        """Tell whether its agent answers."""
        return self.stage.run(self.command("status")).returncode == 0

    def stored_file(self, sha256: str) -> Path:
        """Return where the file with a hash has been stored.

        Raises:
            DemoFailedError: the inbox does not list it.
        """
        listed = self.stage.run(self.command("inbox", "--json")).stdout
        for item in json.loads(listed)["items"]:
            if item.get("sha256") == sha256:
                return Path(item["path"])
        raise DemoFailedError(f"{self.name}'s inbox does not list the file")


def _run_shown(
    stage: Stage, who: str, words: str, command: list[str], timeout_seconds: float | None
) -> str:
    show(f"    {who}$ {words}")
    try:
        done = stage.run(command, subprocess.STDOUT, timeout_seconds)
    except subprocess.TimeoutExpired:
        raise DemoFailedError(f"'{words}' took too long for {who}") from None
    for line in done.stdout.splitlines():
        show(f"        {printable(line)}")
    if done.returncode != 0:
        raise DemoFailedError(f"'{words}' failed for {who}")
    return done.stdout


@click.command(cls=WithExample, example="abst demo --file holiday.mp4")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is sent; by default a file of some megabytes that this machine has.",
)
def command(file: Path | None) -> None:
    """See a realm and two devices work, on this machine.

    They send each other files through the realm, which keeps a copy of every byte that it reads;
    in the end the files are compared, and searched for in that copy. It takes some seconds and
    leaves nothing behind. The exit status is 0 only if all held.
    """
    started = time.monotonic()
    with on_a_stage() as stage:
        try:
            tell(stage, large_file() if file is None else file.absolute())
        except AbstError:
            for line in stage.last_words():
                note(printable(line))
            raise
    show(f"\nAll of it held. It took {time.monotonic() - started:.1f} s.")


def large_file() -> Path:
    """Return a file of some megabytes that this machine has.

    Raises:
        AbstError: there is none.
    """
    for path in _large_files():
        if path.is_file() and path.stat().st_size >= LARGE_FILE_BYTES:
            return path
    raise AbstError("found no file of some megabytes here: name one with --file")


def _large_files() -> Iterator[Path]:
    yield Path(sys.executable).resolve()
    folder, library = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    if folder and library:
        yield Path(folder) / library
    yield from sorted(Path(sysconfig.get_path("stdlib")).glob("lib-dynload/*"))
    yield from sorted(Path(sysconfig.get_path("platlib")).glob("cryptography/**/*.so"))


def tell(stage: Stage, file: Path) -> None:
    """Tell the whole story.

    Raises:
        DemoFailedError: something did not hold.
    """
    show("Two devices send each other files through a realm that cannot read them.")
    show(f"All of it happens on this machine, in {stage.folder}, which is removed at the end.")

    show("\n1. A realm starts. It relays for devices that cannot reach each other; this one also")
    show(
        "   keeps a copy of every byte that it reads, for the end of the story. It lets in who has"
    )
    show("   been invited, and prints a link for its first device.")
    show("    realm$ twistd -n abst-realm &")
    link = stage.start_realm(READY_SECONDS)
    show(f"        {printable(link)}")

    alice, bob = (Actor(name, stage) for name in ("alice", "bob"))
    show("\n2. Two devices, each with a home and an identity of its own, and an agent that runs.")
    ids = [_make_device(stage, actor) for actor in (alice, bob)]

    show("\n3. alice takes that link, and the realm makes another one for bob.")
    alice.run("realm", "add", link)
    bob.run("realm", "add", _invite(stage))

    show("\n4. They trust each other, by device ID.")
    alice.run("trust", ids[1], "--name", "bob")
    bob.run("trust", ids[0], "--name", "alice")

    show("\n5. They talk, through the realm.")
    alice.run("ping", "bob", "--count", "3", "--interval", "0.1")
    alice.run("message", "bob", MESSAGE)

    show(f"\n6. alice sends bob {printable(file.name)}, {human_size(file.stat().st_size)}.")
    _send(alice, bob, file)

    letter = stage.folder / LETTER_NAME
    letter.write_text(LETTER, encoding="utf-8")
    show(f"\n7. bob sends alice a letter, {LETTER_NAME}.")
    _send(bob, alice, letter)
    bob.run("inbox")

    show("\n8. The agents and the realm stop. What the realm saw:")
    for actor in (alice, bob):
        stage.stop(actor.name)
    judge(stage, ids, [file, letter])


def _make_device(stage: Stage, actor: Actor) -> str:
    actor.run("init", "--name", actor.name)
    show(f"    {actor.name}$ abst up --foreground &")
    stage.start(actor.name, actor.command("up", "--foreground"))
    deadline = time.monotonic() + READY_SECONDS
    while not actor.is_up():
        if not stage.is_running(actor.name) or time.monotonic() > deadline:
            raise DemoFailedError(f"the agent of {actor.name} did not start")
        time.sleep(0.05)
    return actor.run("id").strip()


def _invite(stage: Stage) -> str:
    """Return a link of the realm for one more device."""
    command = stage.operator_command("invite")
    said = _run_shown(stage, _REALM, "abst-realm invite", command, COMMAND_SECONDS)
    return next((line for line in said.splitlines() if line.startswith("abst://")), "")


def _send(sender: Actor, receiver: Actor, file: Path) -> None:
    before = time.monotonic()
    sender.run("send", receiver.name, str(file), timeout_seconds=None)
    seconds = time.monotonic() - before
    size = file.stat().st_size
    show(f"    {human_size(size)} in {seconds:.1f} s, {human_size(size / seconds)} a second")
    sent = _sha256(file)
    stored = receiver.stored_file(sent)
    received = _sha256(stored)
    show(f"    SHA-256 of what was sent: {sent}")
    show(f"    SHA-256 of what arrived:  {received}  {printable(stored)}")
    if sent != received:
        raise DemoFailedError("the file did not arrive as it was sent")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def judge(stage: Stage, ids: list[str], files: list[Path]) -> None:
    """Stop the realm, and tell what it saw and what it could not see.

    Raises:
        DemoFailedError: it saw what it must not see.
    """
    report = stage.stop_realm()
    show(f"    packets relayed  {report['relayed_packets']}")
    size = human_size(report["relayed_bytes"])
    show(f"    bytes relayed    {report['relayed_bytes']} ({size})")
    show(f"    device IDs       {', '.join(report['device_ids'])}")
    if set(report["device_ids"]) != set(ids):
        raise DemoFailedError("the realm did not see the two devices")
    _check_record_size(report, stage)
    show(f"   In the {human_size(stage.record.stat().st_size)} that it read:")
    findings = search_record(stage.record, ids, files, {"the message": MESSAGE})
    for finding in findings:
        show(f"    {_finding_line(finding)}")
    wrong = [finding.what for finding in findings if not finding.is_as_expected]
    if wrong:
        raise DemoFailedError(f"this is not as it has to be: {', '.join(wrong)}")


def _check_record_size(report: dict[str, Any], stage: Stage) -> None:
    """Make sure that the copy is one of everything, or say how much it holds."""
    recorded = stage.record.stat().st_size
    if recorded < report["received_bytes"]:
        share = f"{human_size(recorded)} of {human_size(report['received_bytes'])}"
        show(f"   (The copy is bounded. It holds the first {share}.)")
    elif recorded < report["relayed_bytes"] or report["relayed_bytes"] < LARGE_FILE_BYTES // 1000:
        raise DemoFailedError("the realm did not relay what was sent")


def _finding_line(finding: Finding) -> str:
    if not finding.looked_for:
        return f"{printable(finding.what)}: not looked for, {finding.reason}"
    count = f" ({quantity(finding.looked_for, 'piece')})" if finding.looked_for > 1 else ""
    said = f"found {finding.found} of {finding.looked_for}" if finding.found else "not found"
    why = f", {finding.reason}" if finding.reason else ""
    return f"{printable(finding.what)}{count}: {said}{why}"
