"""``abst-realm restore``: put a backup where a realm finds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from abst.cli.example import WithExample
from abst.cli.output import json_option, note, printable, show, show_document
from abst.operator.lines import moment
from abst.operator.place import Place, expanded


@click.command(
    cls=WithExample,
    example="abst-realm restore realm-backup.tar --force",
)
@click.argument("file", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--state",
    type=click.Path(readable=False, path_type=Path),
    metavar="DIR",
    help="The state folder.",
)
@click.option("--force", is_flag=True, help="Keep what is there beside it, under another name.")
@json_option
@click.pass_obj
def command(place: Place, file: Path, state: Path | None, force: bool, as_json: bool) -> None:
    """Put the backup FILE into the realm's state folder.

    The realm has to be stopped. Everything in the file is checked before anything changes. Devices
    that have seen newer values than the backup has take the realm for one that lies, and say so to
    their owners.
    """
    from abst.realm.restore import restore

    if state is not None:
        place = replace(place, state=expanded(state))
    backup, aside = restore(file, place.state, replaces=force)
    if as_json:
        kept = None if aside is None else str(aside)
        show_document({"state": str(place.state.absolute()), "aside": kept, **backup._asdict()})
        return
    show(f"restored to {printable(place.state)}: the realm as of {moment(backup.made)}")
    if aside is not None:
        note(f"what was there is now {printable(aside)}")
