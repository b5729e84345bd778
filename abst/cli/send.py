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
from abst.cli.output import human_size, json_option, printable, show, show_record
from abst.errors import AbstError


@click.command(cls=WithExample, example="abst send laptop report.pdf photos/*.jpg")
@click.argument("peer")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@json_option
@click.pass_obj
def command(home: DeviceHome, peer: str, files: tuple[str, ...], as_json: bool) -> None:
    """Send FILEs to PEER, and return when PEER has stored them.

    They arrive in PEER's inbox, where nothing is ever overwritten, and are checked by their hashes.
    A name that begins with a dash needs '--' before it. With --json, one line for each file and a
    last one with all of them.
    """
    paths = [sendable_path(file) for file in files]
    progress = Progress() if sys.stderr.isatty() and not as_json else None
    try:
        with call_agent(home, "send", peer=peer, paths=paths) as call:
            for event in call:
                if progress is not None:
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

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
