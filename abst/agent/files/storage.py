"""What a disk of this device says, in words for whoever has sent something."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from abst.errors import AbstError


class StorageError(AbstError):
    """Something cannot be stored here; the text may be told to its sender."""


class DamagedDraftError(AbstError):
    """What a journal says of a draft is not so: the transfer has to begin anew."""


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Turn what a disk says into words for the sender."""
    try:
        yield
    except OSError as error:
        raise storage_error(error) from None


def storage_error(error: OSError) -> StorageError:
    """Return a failure of this disk in words for the sender."""
    return StorageError(f"the receiver cannot store it: {error.strerror}")
