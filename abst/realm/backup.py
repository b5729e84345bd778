"""A copy of a realm in one file: its identity, and its database as it was at one moment.

Owns the file's form. The copy of the database is SQLite's own, made while the realm writes on: what
was acknowledged before it began is in it. A backup has the realm's key in it, and is for its
owner's eyes only. ``restore`` puts one back.

The file is a tar archive of ``identity.pem``, ``groups.db`` and, last, ``manifest.json``, which
says when it was made, by which version, and the SHA-256 of the others and of itself.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from abst import __version__
from abst.errors import AbstError
from abst.identity import Identity
from abst.realm.state_folder import IDENTITY_FILE, LOCK_FILE, STORE_FILE

MANIFEST_FILE: Final = "manifest.json"

FORMAT: Final = 1
MAX_MANIFEST_BYTES: Final = 10_000
SNAPSHOT_PREFIX: Final = ".backup-"
_PIECE_BYTES: Final = 1024 * 1024


class Backup(NamedTuple):
    """What a backup says of itself.

    Attributes:
        realm: the ID that the realm's key proves.
        made: when it was made, in ISO 8601 and UTC.
        version: the version of ABST that has made it.
        stored_bytes: the size of the database in it.
    """

    realm: str
    made: str
    version: str
    stored_bytes: int


class BackupError(AbstError):
    """A backup cannot be made, or not be restored; nothing has changed."""


def snapshot(database: Path, target: Path) -> None:
    """Copy a database as it is at this moment; whoever writes to it goes on.

    Args:
        database: the realm's database.
        target: an empty file, which becomes the copy.

    Raises:
        BackupError: it cannot be read, or the copy cannot be written.
    """
    try:
        with (
            contextlib.closing(
                sqlite3.connect(
                    f"{database.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None
                )
            ) as source,
            contextlib.closing(
                # "rw": a copy that nobody waits for any more is not made anew under its name.
                sqlite3.connect(
                    f"{target.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None
                )
            ) as copy,
        ):
            # In one step: one that is taken in several begins anew with every commit meanwhile.
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # One file, without a log beside it.
    except sqlite3.Error as error:
        raise BackupError(f"{database} cannot be copied: {error}") from None


def new_snapshot_file(folder: Path) -> Path:
    """Make an empty file for a snapshot, for its owner only, in the realm's own folder.

    Raises:
        BackupError: it cannot be made.
    """
    try:
        descriptor, path = tempfile.mkstemp(prefix=SNAPSHOT_PREFIX, dir=folder)
    except OSError as error:
        raise BackupError(f"{folder}: {error.strerror}") from None
    os.close(descriptor)
    return Path(path)


def remove_snapshots(folder: Path) -> None:
    """Remove what a realm that was killed has left of its snapshots."""
    for path in folder.glob(f"{SNAPSHOT_PREFIX}*"):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def stopped_realm(state: Path) -> Iterator[None]:
    """Keep a realm from starting in its state folder, as long as the context lasts.

    Raises:
        BackupError: one is running there, or the folder is not this user's.
    """
    try:
        # The lock is not made here: root would own it, and the realm's user could not open it.
        descriptor = os.open(state / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield  # No realm has ever been started there.
        return
    except OSError as error:
        raise BackupError(denied(state, error)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BackupError(f"{state}: a realm is running there: stop it first") from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def rights_of_owner(owner: os.stat_result) -> Iterator[None]:
    """Let root have no more rights than the owner of something, as long as the context lasts.

    A realm's user may have put links into its folder, and SQLite follows them.
    """
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([owner.st_gid])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def write_backup(state: Path, database: Path, target: Path, *, replaces: bool = False) -> Backup:
    """Write a backup, whole or not at all, with mode 0600.

    Args:
        state: the realm's state folder.
        database: a copy of its database that nobody writes to.
        target: the new file.
        replaces: whether it may replace a file that is there.

    Raises:
        BackupError: the text says what is in the way.
    """
    if not replaces and os.path.lexists(target):
        raise BackupError(f"{target} is there already: name another file, or use --force")
    try:
        # Of a link, this is who has made it.
        with rights_of_owner((state / IDENTITY_FILE).lstat()):
            identity = Identity.load(state / IDENTITY_FILE)
        try:
            descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        except OSError as error:
            raise BackupError(denied(target.parent, error)) from None
        try:
            with os.fdopen(descriptor, "wb") as out, open_plain(database) as content:
                backup = _write(out, identity, content)
                out.flush()
                os.fsync(out.fileno())
            if not replaces:
                # A rename replaces what came since, and not every stick has links: take the name.
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.replace(draft, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
        sync_folder(target.parent)
    except OSError as error:
        raise BackupError(denied(error.filename or target, error)) from None
    return backup


def _write(out: IO[bytes], identity: Identity, content: IO[bytes]) -> Backup:
    realm, key = str(identity.device_id), identity.to_pem()
    made = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:

        def add(name: str, file: IO[bytes], size: int) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = size, 0o600, int(made.timestamp())
            archive.addfile(entry, file)

        add(IDENTITY_FILE, io.BytesIO(key), len(key))
        size, digest = measure(content)
        content.seek(0)
        add(STORE_FILE, content, size)
        manifest = {
            "format": FORMAT,
            "realm": realm,
            "made": made.isoformat(),
            "version": __version__,
            "files": {
                IDENTITY_FILE: {
                    "bytes": len(key),
                    "sha256": hashlib.sha256(key).hexdigest(),
                },
                STORE_FILE: {"bytes": size, "sha256": digest},
            },
        }
        manifest["sha256"] = digest_of(manifest)
        text = json.dumps(manifest, indent=2).encode("ascii")
        add(MANIFEST_FILE, io.BytesIO(text), len(text))
    return Backup(realm, made.isoformat(), __version__, size)


def measure(content: IO[bytes], copy: IO[bytes] | None = None) -> tuple[int, str]:
    """Return the size and the SHA-256 of what can be read, and write it elsewhere too."""
    size, digest = 0, hashlib.sha256()
    while piece := content.read(_PIECE_BYTES):
        size += len(piece)
        digest.update(piece)
        if copy is not None:
            copy.write(piece)
    return size, digest.hexdigest()


def digest_of(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest that does not have it yet."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def open_plain(path: Path) -> IO[bytes]:
    """Open a regular file to read; a link or a pipe that stands in its place is refused.

    The folder may belong to a user with fewer rights than this one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BackupError(f"{path}: not a plain file")
    return os.fdopen(descriptor, "rb")


def denied(path: object, error: OSError) -> str:
    """Return what a person is told when the system refuses something."""
    hint = ": only root and the realm's own user may: try sudo"
    return f"{path}: {error.strerror}{hint if isinstance(error, PermissionError) else ''}"


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
