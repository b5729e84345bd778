"""``abst send``: give files and folders to a peer."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from typing import Any

import click

from abst.cli.agent_process import call_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import (
    human_size,
    human_time,
    json_option,
    note,
    one_line,
    printable,
    quantity,
    show,
    show_record,
)
from abst.errors import AbstError


@click.command(cls=WithExample, example="abst send laptop report.pdf photos/")
@click.argument("peer")
@click.argument("files", nargs=-1, required=True, metavar="FILE|FOLDER...", type=click.Path())
@json_option
@click.pass_obj
def command(home: DeviceHome, peer: str, files: tuple[str, ...], as_json: bool) -> None:
    """Send files and folders to PEER, and return when PEER has stored them.

    They arrive in PEER's inbox, where nothing is ever overwritten, with their names, permissions
    and times, and each file is checked by its hash. Links and what else is no file are passed over
    in folders, and named. While PEER is away it waits, and after a break it goes on where it
    stopped. A name that begins with a dash needs '--' before it. With --json, one line for each
    FILE or FOLDER and a last one with all of them; and one with "waiting" true when it has to wait,
    and false when it goes on.
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
                    _show_sent(event, progress, as_json=as_json)
                elif "failed" in event:
                    _show_failed(event, progress, as_json=as_json)
            result = call.result
        if as_json:
            show_record(result)
        elif len(result["files"]) > 1:
            _show_total(result, progress)
    finally:
        if progress is not None:
            progress.close()


def sendable_path(file: str) -> str:
    """Return the absolute path of a file or a folder that can be sent.

    Raises:
        AbstError: it is not there, or neither of the two, or this user may not read it.
    """
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError) as error:
        raise AbstError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise AbstError(f"{file}: neither a file nor a folder")
    if not os.access(file, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise AbstError(f"{file}: you may not read it")
    if os.path.basename(file.rstrip("/")) in ("", ".", ".."):
        # Such a name says nothing to whoever gets it.
        return os.path.realpath(file)
    # Not normalised: with symbolic links, a/../b need not be b.
    return os.path.join(os.getcwd(), file)


def _show_sent(event: dict[str, Any], progress: Progress | None, *, as_json: bool) -> None:
    if as_json:
        show_record(event)
        return
    name, stored_as = printable(event["file"]), printable(event["stored_as"])
    stored = "" if stored_as == name else f", stored as {stored_as}"
    size = human_size(event["size_bytes"])
    if event.get("kind") == "folder":
        what, proof = f"{quantity(event['files'], 'file')}, {size}", "each checked by its SHA-256"
    else:
        what, proof = size, f"SHA-256 {event['sha256']}"
    _say(f"sent {name}: {what}{stored}, {proof}", progress, show)
    skipped = event.get("skipped", [])
    for path in skipped:
        _say(f"not sent, neither a file nor a folder: {printable(path)}", progress, note)
    if (others := event.get("skipped_count", 0) - len(skipped)) > 0:
        _say(f"not sent, neither files nor folders: {others} more", progress, note)


def _show_failed(event: dict[str, Any], progress: Progress | None, *, as_json: bool) -> None:
    if as_json:
        show_record(event)
    else:
        _say(f"not sent: {one_line(event['failed'])}", progress, note)


def _show_total(result: dict[str, Any], progress: Progress | None) -> None:
    size, seconds = human_size(result["total_sent_bytes"]), human_time(result["seconds"])
    rate = human_size(result["bytes_per_second"])
    _say(f"{len(result['files'])} sent: {size} in {seconds}, {rate}/s", progress, show)


def _say(text: str, progress: Progress | None, say: Callable[[str], None]) -> None:
    """Say something while a bar may stand on the same terminal."""
    if progress is not None:
        progress.clear()
    say(text)


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
    """One bar for everything, on the terminal: how much is across, how fast, how much longer."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._bar: Any = None

    def update(self, event: dict[str, Any]) -> None:
        """Show how far it is."""
        if "total_bytes" not in event:
            return
        if self._bar is None:
            self._bar = self._tqdm(
                total=event["total_bytes"],
                desc=printable(event["file"]),
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                dynamic_ncols=True,
            )
        self._bar.total = event["total_bytes"]
        self._bar.set_description(printable(event["file"]), refresh=False)
        self._bar.update(event["total_sent_bytes"] - self._bar.n)

    def tell(self, text: str, *, is_waiting: bool) -> None:
        """Write a line above the bar, which shows too that it stands still."""
        if self._bar is not None:
            self._bar.set_postfix_str("waiting" if is_waiting else "", refresh=False)
        self._tqdm.write(text, file=sys.stderr)  # It draws the bar again.

    def clear(self) -> None:
        """Make room for a line; the bar comes back with the next news."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
