"""Names that somebody else has chosen, turned into ones that do no harm here (spec: agent.md).

Pure. Owns which letters and which whole names are not kept. That two names never become one file is
the business of ``naming``.
"""

from __future__ import annotations

import re
from typing import Final

MAX_ITEM_NAME_BYTES: Final = 200
"""Of what stands in the inbox: a number may follow, and people read it."""

MAX_NAME_BYTES: Final = 255
"""What Linux takes."""

MAX_SUFFIX_CHARACTERS: Final = 20

_HARMFUL: Final = re.compile("[/\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What ends a name, plays with a terminal, begins a line, or turns the letters after it around."""


def item_name(name: str) -> str:
    """Return a name for what stands in the inbox itself: one folder entry, nothing special.

    Only the last part of a path is kept; control characters, leading dots and dashes go, so that
    the name neither leaves the folder nor hides in it nor reads as an option.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(letter if letter.isprintable() else "_" for letter in last)
    shown = _unicode(shown).strip().lstrip(".-~ ").rstrip(". ")
    return shortened(shown, MAX_ITEM_NAME_BYTES).rstrip(". ") or "unnamed"


def inner_name(name: str) -> str:
    """Return a name for what is inside a folder: as it is, but for what does harm anywhere.

    A repository with another name in place of ``.git`` is none, so what hides or reads as an
    option stays: whoever opens the folder has asked for what is in it.
    """
    if name in ("", ".", ".."):
        return "unnamed"
    return shortened(_unicode(_HARMFUL.sub("_", name)), MAX_NAME_BYTES)


def shortened(name: str, most_bytes: int) -> str:
    """Return a name of at most so many bytes, with its suffix if that is a short one."""
    if len(name.encode("utf-8")) <= most_bytes:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) >= MAX_SUFFIX_CHARACTERS:
        stem, dot, suffix = name, "", ""
    end = dot + suffix
    room = most_bytes - len(end.encode("utf-8"))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore") + end


def _unicode(name: str) -> str:
    """Replace what comes of a name that was not Unicode on the sender's disk."""
    return name.encode("utf-8", "replace").decode("utf-8")
