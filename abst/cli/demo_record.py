"""Looking for secrets in what a realm has read.

Owns what is looked for: names, texts, and pieces of files' content taken all over them. A search
that finds nothing proves nothing unless it can find, so the device IDs, which a realm does see,
are looked for as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from abst.device_id import DeviceID

PIECE_BYTES: Final = 16
PIECES: Final = 100
MIN_DISTINCT_BYTES: Final = 8
MIN_NAME_BYTES: Final = 6
"""A shorter name occurs by chance in some megabytes of random bytes."""

# The keys of the packets themselves; a file that is called like one of them proves nothing.
_WORDS_OF_THE_WIRE: Final = frozenset(
    b"packet_id content source_device target_device peer_group request device_id version".split()
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a search for one kind of thing came to.

    Attributes:
        what: the thing.
        looked_for: how many pieces of it were looked for.
        found: how many of them are there.
        expected: how many have to be there.
        reason: why it was not looked for, or why it has to be there.
    """

    what: str
    looked_for: int
    found: int
    expected: int = 0
    reason: str = ""

    @property
    def is_as_expected(self) -> bool:
        """Whether as many are there as have to be."""
        return self.found == self.expected


def search_record(
    record: Path, device_ids: Sequence[str], files: Sequence[Path], texts: Mapping[str, str]
) -> list[Finding]:
    """Look for everything that a realm may and may not know.

    Args:
        record: what the realm has read.
        device_ids: what it may know, and has to, or the search does not work.
        files: whose names and content it may not know.
        texts: more that it may not know, under the name by which it is shown.
    """
    seen = record.read_bytes()
    identities = [bytes(DeviceID.parse(text)) for text in device_ids]
    found = sum(piece in seen for piece in identities)
    findings = [
        Finding("the device IDs", len(identities), found, len(identities), "so the search works")
    ]
    for what, text in texts.items():
        findings.append(_search_pieces(seen, what, list(_text_pieces(text.encode()))))
    for file in files:
        findings.append(_search_name(seen, file.name))
        findings.append(_search_pieces(seen, f"the content of {file.name}", file_pieces(file)))
    return findings


def file_pieces(file: Path) -> list[bytes]:
    """Return pieces taken all over a file, passing over what may be anywhere, such as zeros."""
    size = file.stat().st_size
    step = max(PIECE_BYTES, size // PIECES)
    pieces = []
    with file.open("rb") as content:
        for start in range(0, size, step):
            content.seek(start)
            piece = _first_distinctive(content.read(min(step, 64 * PIECE_BYTES)))
            if piece is not None:
                pieces.append(piece)
    return pieces


def _first_distinctive(data: bytes) -> bytes | None:
    return next(_distinctive(data), None)


def _distinctive(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data) - PIECE_BYTES + 1, PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        if len(set(piece)) >= MIN_DISTINCT_BYTES:
            yield piece


def _text_pieces(text: bytes) -> Iterator[bytes]:
    yield from dict.fromkeys(_distinctive(text))


def _search_pieces(seen: bytes, what: str, pieces: Sequence[bytes]) -> Finding:
    found = sum(piece in seen for piece in pieces)
    reason = "" if pieces else "for no part of it is distinctive enough"
    return Finding(what, len(pieces), found, reason=reason)


def _search_name(seen: bytes, name: str) -> Finding:
    what = f"the name {name}"
    wanted = name.encode("utf-8", "surrogateescape")
    if len(wanted) < MIN_NAME_BYTES:
        return Finding(what, 0, 0, reason="for one so short occurs by chance")
    if wanted in _WORDS_OF_THE_WIRE:
        return Finding(what, 0, 0, reason="for it is a word of the protocol")
    return Finding(what, 1, int(wanted in seen))
