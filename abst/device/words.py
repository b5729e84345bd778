"""The words of pairing: codes such as ``7-otter-marble``, and words to compare by eye and voice.

Pure: owns the word list (words.txt), how a code is written, read and completed, and how a digest is
said in words. Which bytes are random, and what a code proves, is the business of pairing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import resources
from typing import Self

from abst.errors import AbstError

MAX_CODE_NUMBER = 9999

_BETWEEN = re.compile(r"[\s\-\u2010-\u2015\u2212]+")  # phones make dashes of hyphens
_NUMBER = re.compile(r"0*([1-9][0-9]{0,3})")
_COMMENT = re.compile(r"^#.*\n", re.MULTILINE)
_EXAMPLE = "a code is a number and two words, as in 7-otter-marble"
_MAX_SHOWN = 40
# What is shorter has too little of a word, and what is longer too much, to guess which was meant.
_GUESSABLE = range(3, 16)
_MAX_MISTAKES = 2


def _read_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    text = resources.files("abst.device").joinpath("words.txt").read_text("ascii")
    first, second = _COMMENT.sub("", text).split("\n\n")
    return tuple(first.split()), tuple(second.split())


FIRST_WORDS, SECOND_WORDS = _read_words()

_ALL_WORDS = FIRST_WORDS + SECOND_WORDS
_WORD_BITS = 9
_COMPARED_WORDS = 4
_COMPARED_BYTES = 8


@dataclass(frozen=True, slots=True)
class PairingCode:
    """A code that pairs two devices; its text is ``7-otter-marble``.

    Its repr leaves the words out, since they are a secret for as long as the code is valid.

    Attributes:
        number: finds the device that waits; no secret; 1 to MAX_CODE_NUMBER.
        first: one of FIRST_WORDS.
        second: one of SECOND_WORDS.

    Raises:
        AbstError: a part is none of a code; the text says which, and what may be meant.
    """

    number: int
    first: str = field(repr=False)
    second: str = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_CODE_NUMBER:
            raise _not_a_number(str(self.number))
        if self.first not in FIRST_WORDS:
            raise _not_a_word(self.first, FIRST_WORDS, SECOND_WORDS)
        if self.second not in SECOND_WORDS:
            raise _not_a_word(self.second, SECOND_WORDS, FIRST_WORDS)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a code that a person typed: any case; blanks or hyphens, one or more, between parts.

        Raises:
            AbstError: the text is no code; the error says which part is wrong, and for a misspelt
                word which one may be meant.
        """
        parts = [part for part in _BETWEEN.split(text.lower()) if part]
        if len(parts) != 3:
            raise AbstError(f"{_shown(text)} is no code: {_EXAMPLE}")
        number = _NUMBER.fullmatch(parts[0])
        if not number:
            raise _not_a_number(parts[0])
        return cls(int(number[1]), parts[1], parts[2])

    @classmethod
    def from_random(cls, number: int, two_random_bytes: bytes) -> Self:
        """Return the code of a number and of two random bytes; each byte picks a word.

        Raises:
            ValueError: there are not two bytes.
            AbstError: the number is not from 1 to MAX_CODE_NUMBER.
        """
        first, second = two_random_bytes
        return cls(number, FIRST_WORDS[first], SECOND_WORDS[second])

    @property
    def secret(self) -> bytes:
        """The password for SPAKE2: the two words, lower-case with a hyphen between, in ASCII.

        The number is no part of it, since a realm knows the number.
        """
        return f"{self.first}-{self.second}".encode("ascii")

    def __str__(self) -> str:
        return f"{self.number}-{self.first}-{self.second}"


def complete(prefix: str) -> list[str]:
    """Return every way in which a partly typed code may go on, up to the end of a word.

    ``7-ot`` gives ``7-otter``; a whole first word gives the codes that begin with it; what no code
    begins with gives nothing.
    """
    typed, *words = _BETWEEN.split(prefix.lstrip().lower())
    number = _NUMBER.fullmatch(typed)
    if not number or len(words) > 2:
        return []
    first, second = (*words, "", "")[:2]
    if first in FIRST_WORDS:
        return [f"{number[1]}-{first}-{word}" for word in SECOND_WORDS if word.startswith(second)]
    if len(words) == 2:
        return []
    return [f"{number[1]}-{word}" for word in FIRST_WORDS if word.startswith(first)]


def comparison_words(digest: bytes) -> str:
    """Return words for two people to compare, such as ``otter marble violin canyon 42``.

    The first 8 bytes decide, as one big-endian number. Its upper 36 bits are four indices of 9
    bits, the uppermost first, into FIRST_WORDS followed by SECOND_WORDS. Its lower 28 bits modulo
    100 are the number; 2**28 is 56 more than a multiple of 100, so each of 00 to 55 is more likely
    than each of 56 to 99 by one part in 2.7 million. Together that is 42.6 bits.

    Raises:
        ValueError: the digest is shorter than 8 bytes.
    """
    if len(digest) < _COMPARED_BYTES:
        raise ValueError(f"a digest to compare has at least {_COMPARED_BYTES} bytes")
    value = int.from_bytes(digest[:_COMPARED_BYTES], "big")
    words = []
    for position in range(1, _COMPARED_WORDS + 1):
        index = value >> (8 * _COMPARED_BYTES - position * _WORD_BITS)
        words.append(_ALL_WORDS[index % len(_ALL_WORDS)])
    rest = value % (1 << (8 * _COMPARED_BYTES - _COMPARED_WORDS * _WORD_BITS))
    return f"{' '.join(words)} {rest % 100:02}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")


def _not_a_number(typed: str) -> AbstError:
    return AbstError(
        f"{_shown(typed)} is no number of a code: it is a whole number from 1 to {MAX_CODE_NUMBER}"
    )


def _not_a_word(typed: str, words: tuple[str, ...], others: tuple[str, ...]) -> AbstError:
    place, other_place = ("first", "second") if words is FIRST_WORDS else ("second", "first")
    if typed in others:
        return AbstError(
            f"{_shown(typed)} is never the {place} word of a code, but the {other_place}: "
            "are the words in the right order?"
        )
    nearest = _nearest(typed, words)
    hint = f"did you mean {nearest!r}?" if nearest else f"look at the {place} word again"
    return AbstError(f"{_shown(typed)} is no word of a code: {hint}")


def _nearest(typed: str, words: tuple[str, ...]) -> str | None:
    """Return the word that was meant, or None when `typed` resembles none of them."""
    if len(typed) not in _GUESSABLE:
        return None
    mistakes, nearest = min((_mistakes(typed, word), word) for word in words)
    if mistakes > 1:
        for word in words:
            if word.startswith(typed):
                return word
    return nearest if mistakes <= _MAX_MISTAKES else None


def _mistakes(typed: str, word: str) -> int:
    """Count the letters missed, added, wrong, or exchanged with the next, from `word` to `typed`.

    This is the Damerau-Levenshtein distance in which no letter is changed twice.
    """
    before: list[int] = []
    above = list(range(len(word) + 1))
    for i, letter in enumerate(typed):
        row = [i + 1]
        for j, wanted in enumerate(word):
            cost = min(above[j] + (letter != wanted), above[j + 1] + 1, row[j] + 1)
            if i and j and letter == word[j - 1] and wanted == typed[i - 1]:
                cost = min(cost, before[j - 1] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]
