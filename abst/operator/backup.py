"""``abst-realm backup``: a copy of the realm in one file, while it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from abst.cli.example import WithExample
from abst.cli.output import human_size, json_option, note, printable, show, show_document
from abst.control_client import NotRunningError
from abst.errors import AbstError
from abst.operator.place import PATIENT_SECONDS, Place


@click.command(cls=WithExample, example="abst-realm backup realm-backup.tar")
@click.argument("file", type=click.Path(readable=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE when it is there.")
@json_option
@click.pass_obj
def command(place: Place, file: Path, force: bool, as_json: bool) -> None:
    """Copy the realm to FILE, while it runs.

    In it are the realm's key, its groups and values, and who may use it. Whoever has the file can
    pretend to be this realm: it is made for its owner alone, and belongs where keys are kept.
    'abst-realm restore' puts it back.
    """
    from abst.realm.backup import write_backup

    with _database(place) as database:
        backup = write_backup(place.state, database, file.absolute(), replaces=force)
    if as_json:
        show_document({"file": str(file.absolute()), **backup._asdict()})
        return
    show(f"wrote {printable(file)}: {human_size(backup.stored_bytes)} of groups and values")
    note("it has the realm's key in it: keep it where you keep keys")


@contextlib.contextmanager
def _database(place: Place) -> Iterator[Path]:
    """Give a copy of the database: the realm makes it, or this command when none runs."""
    try:
        call = place.call("backup", PATIENT_SECONDS)
    except NotRunningError:
        with _copy_of_stopped(place) as path:
            yield path
        return
    with call:
        for event in call:
            # Its name alone: a realm shall not choose what root reads.
            yield place.state / Path(str(event["snapshot"])).name
            call.answer(True)
            return
        raise AbstError("the realm has made no copy: its log says why")


@contextlib.contextmanager
def _copy_of_stopped(place: Place) -> Iterator[Path]:
    from abst.realm.backup import new_snapshot_file, rights_of_owner, snapshot, stopped_realm
    from abst.realm.state_folder import STORE_FILE

    with stopped_realm(place.state):
        if not os.path.lexists(place.state / STORE_FILE):
            raise AbstError(f"no realm is at {place.state}: name its state folder with --state")
        with rights_of_owner(place.state.stat()):
            path = new_snapshot_file(place.state)
        try:
            with rights_of_owner(place.state.stat()):
                snapshot(place.state / STORE_FILE, path)
            yield path
        finally:
            path.unlink(missing_ok=True)
