"""Putting a backup back: all of it is checked before anything changes.

Owns that nothing is restored of a file that is not whole, that no realm runs meanwhile, and that
what was there before is kept.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from abst.identity import Identity
from abst.realm.backup import (
    FORMAT,
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    Backup,
    BackupError,
    denied,
    digest_of,
    measure,
    open_plain,
    stopped_realm,
    sync_folder,
)
from abst.realm.state_folder import IDENTITY_FILE, STORE_FILE
from abst.realm.store.tables import KIND, Tables


def restore(source: Path, state: Path, *, replaces: bool = False) -> tuple[Backup, Path | None]:
    """Put a backup where a realm finds it; everything is checked before anything changes.

    Args:
        source: the backup.
        state: the state folder, which is made when it is missing. Its owner stays the same.
        replaces: whether there may be a state already; it is kept beside.

    Returns:
        What was restored, and where that is which was there before: None when there was nothing.

    Raises:
        BackupError: the file is not whole, a realm is running, or something is there already.
    """
    state = state.absolute()
    try:
        with stopped_realm(state):
            owner = state.stat() if state.exists() else None
            occupied = owner is not None and any(state.iterdir())
            if occupied and not replaces:
                raise BackupError(
                    f"{state} is not empty: --force keeps what is there beside it, under a new name"
                )
            if owner is None:
                state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{state.name}-", dir=state.parent))
            try:
                backup = _read(source, draft)
                if owner is not None and os.geteuid() == 0:
                    # The folder last: whoever owns it can put links in place of what is in it.
                    for path in (*draft.iterdir(), draft):
                        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
                aside = _put_aside(state) if occupied else None
                _move_in(draft, state, aside)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            sync_folder(state.parent)
    except OSError as error:
        raise BackupError(denied(error.filename or state, error)) from None
    return backup, aside


def _read(source: Path, folder: Path) -> Backup:
    """Unpack a backup into an empty folder, and check everything that can be checked."""
    found: dict[str, tuple[int, str]] = {}
    manifest = b""
    try:
        with open_plain(source) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for name in (IDENTITY_FILE, STORE_FILE, MANIFEST_FILE):
                entry = archive.next()
                if entry is None or entry.name != name or entry.type != tarfile.REGTYPE:
                    raise BackupError(f"{source}: not a realm's backup, or not a whole one")
                content = archive.extractfile(entry)
                assert content is not None
                if name == MANIFEST_FILE:
                    manifest = content.read(MAX_MANIFEST_BYTES)
                else:
                    found[name] = _unpack(content, folder / name)
            if archive.next() is not None:
                raise BackupError(f"{source}: there is more in it than a realm's backup has")
    except (tarfile.TarError, EOFError, ValueError):
        raise BackupError(f"{source}: not a realm's backup, or not a whole one") from None
    backup = _check_manifest(source, manifest, found)
    identity = Identity.load(folder / IDENTITY_FILE)
    if str(identity.device_id) != backup.realm:
        raise BackupError(f"{source}: the key in it is another realm's")
    _check_database(source, folder / STORE_FILE)
    return backup


def _unpack(content: IO[bytes], path: Path) -> tuple[int, str]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        measured = measure(content, file)
        file.flush()
        os.fsync(file.fileno())
    return measured


def _check_manifest(source: Path, text: bytes, found: dict[str, tuple[int, str]]) -> Backup:
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BackupError(f"{source}: made by a newer version of ABST; update this one")
        if manifest.pop("sha256") != digest_of(manifest):
            raise BackupError(f"{source}: it was altered, or has been damaged")
        said = {
            name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        backup = Backup(
            str(manifest["realm"]),
            str(manifest["made"]),
            str(manifest["version"]),
            found[STORE_FILE][0],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BackupError(f"{source}: not a realm's backup, or not a whole one") from None
    if said != found:
        raise BackupError(f"{source}: it was altered, or has been damaged")
    return backup


def _check_database(source: Path, path: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            ((kind,),) = database.execute("PRAGMA application_id").fetchall()
            ((verdict,),) = database.execute("PRAGMA integrity_check(1)").fetchall()
    except (sqlite3.Error, ValueError) as error:
        raise BackupError(f"{source}: the database in it is not usable: {error}") from None
    if kind != KIND:
        verdict = "it is none of a realm"
    if verdict != "ok":
        raise BackupError(f"{source}: the database in it is not usable: {verdict}")
    Tables(path).close()


def _put_aside(state: Path) -> Path:
    """Give the folder that is there another name, and return it."""
    now = datetime.datetime.now(datetime.UTC)
    aside = state.with_name(f"{state.name}.before-{now:%Y%m%dT%H%M%S.%fZ}")
    os.rename(state, aside)
    return aside


def _move_in(draft: Path, state: Path, aside: Path | None) -> None:
    try:
        os.rename(draft, state)  # An empty folder may be in its place.
    except OSError:
        if aside is not None:
            os.rename(aside, state)
        raise
