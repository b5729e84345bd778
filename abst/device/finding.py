"""What a person means who types a name, an ID, or the beginning of an ID. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, TypeVar

from abst.device_id import DeviceID
from abst.errors import AbstError

MIN_CHARACTERS: Final = 4
"""Of the beginning of an ID: fewer could be meant as a name."""

Thing = TypeVar("Thing")


def find_one(
    text: str,
    things: Iterable[tuple[DeviceID, Collection[str], Thing]],
    *,
    what: str,
    otherwise: str,
    error: type[AbstError] = AbstError,
) -> Thing:
    """Return the one that is meant.

    A whole ID and a name as it is written come first; then a name in other letters, large or small,
    and the beginning of an ID.

    Args:
        text: what was typed.
        things: the ID, the names, and what is returned, of each.
        what: what each of them is, in one word.
        otherwise: what to say when none is meant.
        error: what is raised.

    Raises:
        AbstError: none is meant, or several are, as the given kind of error. Names do not decide
            between several: whoever is called something may have chosen that itself.
    """
    written = text.strip()
    wanted = written.lower()
    candidates = list(things) if written else []  # Nobody means what has no name by that.
    found = [item for item in candidates if written in item[1] or str(item[0]) == wanted]
    found = found or [
        item
        for item in candidates
        if wanted in (name.lower() for name in item[1])
        or (len(wanted) >= MIN_CHARACTERS and str(item[0]).startswith(wanted))
    ]
    if len(found) == 1:
        return found[0][2]
    if not found:
        raise error(otherwise)
    listed = ", ".join(str(thing_id) for thing_id, _, _ in found)
    raise error(f"{text!r} means several {what}s, name one by its ID: {listed}")
