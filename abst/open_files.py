"""How many files a process may have open: every connection is one."""

from __future__ import annotations

import contextlib


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
