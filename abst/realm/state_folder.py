"""A realm's state folder: what its files are called, who may look inside, and who has it now."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from abst.errors import ConfigurationError

IDENTITY_FILE: Final = "identity.pem"
STORE_FILE: Final = "groups.db"
LOCK_FILE: Final = "realm.lock"
ADDRESS_FILE: Final = "address"
CONTROL_SOCKET: Final = "control"
INVITATION_FILE: Final = "first-invitation"


def default_state(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the state folder: systemd's when it gives one, else in the XDG state folder."""
    given = environment.get("STATE_DIRECTORY")
    if given:
        return Path(given.split(":")[0])
    base = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "abst-realm"


def make_state_folder(path: Path) -> None:
    """Make the folder, for its owner only, when it does not exist.

    Raises:
        ConfigurationError: it cannot be made or written.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(_named(path), None, str(error.strerror)) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(_named(path), None, "this user may not write there")


def lock_state_folder(path: Path) -> int:
    """Keep other realms out of the folder: each would miss what the others write there.

    Returns:
        The lock's descriptor, to be kept open.

    Raises:
        ConfigurationError: another realm has it, or the lock cannot be made.
    """
    lock = path / LOCK_FILE
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(_named(path), None, f"{LOCK_FILE}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(_named(path), None, "another realm is running there") from None
    return descriptor


def _named(path: Path) -> str:
    """Return what a state folder is called in errors, whatever has named it."""
    return f"state folder {path}"


def write_secret(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, in place of the one that is there.

    Raises:
        OSError: it cannot be written; the one that is there stays.
    """
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
