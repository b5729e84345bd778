"""``abst send``: give files to a peer."""

from __future__ import annotations

import os
import stat
import sys
from typing import Any

import click

from abst.cli.agent_process import call_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import (
    human_size,
    json_option,
    note,
    one_line,
    printable,
    show,
    show_record,
)
from abst.errors import AbstError


@click.command(cls=WithExample, example="abst send laptop report.pdf photos/*.jpg")
@click.argument("peer")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@json_option
@click.pass_obj
def command(home: DeviceHome, peer: str, files: tuple[str, ...], as_json: bool) -> None:
    """Send FILEs to PEER, and return when PEER has stored them.

    They arrive in PEER's inbox, where nothing is ever overwritten, and are checked by their hashes.
    While PEER is away it waits. A name that begins with a dash needs '--' before it. With --json,
    one line for each file and a last one with all of them; and one with "waiting" true when it has
    to wait, and false when it goes on.
    """
    paths = [sendable_path(file) for file in files]
    progress = Progress() if sys.stderr.isatty() and not as_json else None
    try:
        with call_agent(home, "send", peer=peer, paths=paths) as call:
            for event in call:
                if "waiting" in event:
                    _show_waiting(event, progress, as_json=as_json)
                elif progress is not None:
                    progress.update(event)
                if event.get("done"):
                    _show_sent(event, as_json)
            if as_json:
                show_record(call.result)
    finally:
        if progress is not None:
            progress.close()


def sendable_path(file: str) -> str:
    """Return the absolute path of a file that can be sent.

    Raises:
        AbstError: it is not there, or not a regular file, or this user may not read it.
    """
    try:
        is_regular = stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError) as error:
        raise AbstError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    if not is_regular:
        raise AbstError(f"{file}: not a file; only files can be sent (tar makes one of a folder)")
    if not os.access(file, os.R_OK):
        raise AbstError(f"{file}: you may not read it")
    # Not normalised: with symbolic links, a/../b need not be b.
    return os.path.join(os.getcwd(), file)


def _show_sent(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_record(event)
        return
    name, stored_as = printable(event["file"]), printable(event["stored_as"])
    stored = "" if stored_as == name else f", stored as {stored_as}"
    size = human_size(event["size_bytes"])
    show(f"sent {name}: {size}{stored}, SHA-256 {event['sha256']}")


def _show_waiting(event: dict[str, Any], progress: Progress | None, *, as_json: bool) -> None:
    if as_json:
        show_record(event)
        return
    peer = one_line(event["peer"])
    text = f"going on: {peer} is there again"
    if event["waiting"]:
        why = one_line(event["reason"])
        text = f"waiting: {why}; it goes on by itself when {peer} can be reached; Ctrl-C cancels"
    if progress is None:
        note(text)
    else:
        progress.tell(text, is_waiting=event["waiting"])


class Progress:
    """A bar for each file, on the terminal."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._bar: Any = None

    def update(self, event: dict[str, Any]) -> None:
        """Show how far a file is."""
        if event.get("done"):
            self.close()
            return
        if self._bar is None:
            self._bar = self._tqdm(
                total=event["size_bytes"],
                desc=printable(event["file"]),
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                dynamic_ncols=True,
            )
        self._bar.update(event["sent_bytes"] - self._bar.n)

    def tell(self, text: str, *, is_waiting: bool) -> None:
        """Write a line above the bar, which shows too that it stands still."""
        if self._bar is not None:
            self._bar.set_postfix_str("waiting" if is_waiting else "", refresh=False)
        self._tqdm.write(text, file=sys.stderr)  # It draws the bar again.

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
