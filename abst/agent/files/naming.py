"""Names that nothing has: chosen in a folder, and given to what is whole.

Owns that nothing is ever replaced, whoever else makes files there at the same time.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from abst.agent.files.foreign_names import MAX_NAME_BYTES, MAX_SUFFIX_CHARACTERS

MAX_SAME_NAMES: Final = 1000

NAME_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""What ``give_name`` fails with when something has the name."""

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What ``os.link`` fails with on file systems that have none."""


def free_name(plain: str, folder: int) -> str | None:
    """Return a name like the plain one that nothing in a folder has, or None: there are too many.

    Args:
        plain: a name that does no harm.
        folder: the folder's descriptor.
    """
    for number in range(MAX_SAME_NAMES):
        name = _numbered(plain, number) if number else plain
        if status(name, folder) is None:
            return name
    return None


def give_name(draft: str, name: str, folder: int, *, is_folder: bool) -> None:
    """Give a draft its name, unless something has that already.

    Raises:
        OSError: that is not possible; one of ``NAME_TAKEN`` when something has the name.
    """
    if is_folder:
        # A rename replaces no folder but an empty one, and that one is ours: made just now.
        os.mkdir(name, 0o700, dir_fd=folder)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        # A link, unlike a rename, never replaces a file that is there.
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # This file system has no links, so the name is taken first, and then replaced.
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder))
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(draft, dir_fd=folder)


def _numbered(plain: str, number: int) -> str:
    stem, suffix = os.path.splitext(plain)
    if len(suffix) > MAX_SUFFIX_CHARACTERS:
        stem, suffix = plain, ""
    end = f" ({number}){suffix}"
    room = MAX_NAME_BYTES - len(end.encode("utf-8"))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore") + end


def status(name: str, folder: int) -> os.stat_result | None:
    """Return what stands under a name in a folder, itself and not what it leads to, or None."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
