"""How many files a process may have open: every connection is one."""

from __future__ import annotations

import contextlib
import os


def allow_open_files(number: int) -> int:
    """Raise this process's limit of open files to that number, as far as the system lets it.

    Returns:
        How many may be open now; the number itself where nothing tells.
    """
    try:
        import resource
    except ImportError:
        return number
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return number if allowed == resource.RLIM_INFINITY else allowed


def most_open_files() -> int | None:
    """Return how many files this process may have open; None where nothing tells, or no limit."""
    try:
        import resource
    except ImportError:
        return None
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if allowed == resource.RLIM_INFINITY else allowed


def count_open_files() -> int | None:
    """Return how many files this process has open; None where nothing tells."""
    try:
        # Looking takes one itself.
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None


def files_are_scarce(spare: int) -> bool:
    """Tell whether no more than that many files can be opened now, where the system tells.

    It gives the lowest number that is free to each new file, so what the next one gets is what
    counts: the limit may have been lowered since files were opened.
    """
    try:
        import resource
    except ImportError:
        return False
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(number)
    return limit != resource.RLIM_INFINITY and number >= limit - spare
