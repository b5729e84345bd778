"""The words of codes: what the list keeps to, and how codes are written, read and completed.

How alike two words sound is judged by `sound`, a key in the manner of Metaphone: the consonants
that English spelling stands for, with the pairs that a bad telephone line confuses made one.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from importlib import resources
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.device.words import (
    FIRST_WORDS,
    SECOND_WORDS,
    PairingCode,
    comparison_words,
    complete,
)
from abst.errors import AbstError

ALL_WORDS = FIRST_WORDS + SECOND_WORDS
EXAMPLE = PairingCode(7, "otter", "marble")

# From spelling to sound; the first that fits wins. Sounds are letters; # is sh, ch, j and their
# like, and . is a vowel or nothing. th is t, as many people say it.
SPELLINGS = tuple(
    (re.compile(spelling), sounds)
    for spelling, sounds in (
        (r"^(kn|gn|pn)", "n"),
        (r"^wr|^rh", "r"),
        (r"^(ps|x)", "s"),
        (r"^wh", "w"),
        (r"mb$|mn$", "m"),
        (r"stle", "sl"),
        (r"ften", "fn"),
        (r"(ti|si|ci)(?=on|an|ous|al)|[st](?=ure)", "#"),
        (r"tch|ch|sh|dge|dj", "#"),
        (r"sch", "sk"),
        (r"ph", "f"),
        (r"th", "t"),
        (r"ck", "k"),
        (r"gh(?=[aeiou])", "k"),
        (r"gh", "."),
        (r"sc(?=[eiy])", "s"),
        (r"cc(?=[eiy])", "ks"),
        (r"c(?=[eiy])", "s"),
        (r"gg|^gi(?=[fgrt])|^ge(?=[ace])", "k."),
        (r"g(?=[eiy])", "#"),
        (r"qu", "k"),
        (r"x", "ks"),
        (r"^[aeiouy](?![aeiou])|^[aeiou]", "a"),
        (r"[hwy](?![aeiou])|[aeiou]", "."),
        (r"b", "p"),
        (r"d", "t"),
        (r"[cgq]", "k"),
        (r"v", "f"),
        (r"z", "s"),
        (r"j", "#"),
        (r"m", "n"),
        (r".", r"\g<0>"),
    )
)


def sound(word: str) -> str:
    """Return the consonants that one hears, and the first vowel's place.

    Voiced and unvoiced are the same, and so are m and n; vowels are dropped.
    """
    sounds = ""
    at = 0
    while at < len(word):
        # A pattern's ^ is the word's beginning, wherever match() begins.
        match, heard = next((m, s) for p, s in SPELLINGS if (m := p.match(word, at)))
        sounds += match.expand(heard)
        at = match.end()
    once = re.sub(r"([^.])\1+", r"\1", sounds.replace("m", "n"))
    return once.replace(".", "")


def distance(a: str, b: str) -> int:
    """Return the Damerau-Levenshtein distance without restriction, which is a metric."""
    last: dict[str, int] = {}
    far = len(a) + len(b)
    cost = {(i, j): far for i in range(-1, len(a) + 1) for j in range(-1, len(b) + 1)}
    cost |= {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i, letter in enumerate(a, 1):
        same = 0
        for j, other in enumerate(b, 1):
            k, m = last.get(other, 0), same
            if letter == other:
                same = j
            cost[i, j] = min(
                cost[i - 1, j - 1] + (letter != other),
                cost[i - 1, j] + 1,
                cost[i, j - 1] + 1,
                cost[k - 1, m - 1] + (i - k - 1) + 1 + (j - m - 1) if k and m else far,
            )
        last[letter] = i
    return cost[len(a), len(b)]


def close(a: str, b: str, least: int) -> bool:
    """Tell whether two words are less than `least` apart. Their letters alone judge most pairs."""
    letters = set(a + b)
    missing = sum(max(0, a.count(x) - b.count(x)) for x in letters)
    added = sum(max(0, b.count(x) - a.count(x)) for x in letters)
    return max(missing, added) < least and distance(a, b) < least


def groups(words: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """Return the groups of two or more words that have the same key."""
    found: dict[str, list[str]] = defaultdict(list)
    for word in words:
        found[key(word)].append(word)
    return [group for group in found.values() if len(group) > 1]


def codes() -> st.SearchStrategy[PairingCode]:
    """Return every code there is."""
    numbers = st.integers(1, 9999)
    return st.builds(PairingCode.from_random, numbers, st.binary(min_size=2, max_size=2))


class ListTests(TestCase):
    """The rules that the list of words keeps."""

    def test_there_are_a_byte_of_first_words_and_a_byte_of_second_words(self) -> None:
        self.assertEqual((256, 256), (len(FIRST_WORDS), len(SECOND_WORDS)))
        self.assertEqual(512, len(set(ALL_WORDS)))

    def test_every_word_has_four_to_seven_plain_letters(self) -> None:
        self.assertEqual([], [w for w in ALL_WORDS if not re.fullmatch(r"[a-z]{4,7}", w)])

    def test_both_parts_are_sorted(self) -> None:
        self.assertEqual(sorted(FIRST_WORDS), list(FIRST_WORDS))
        self.assertEqual(sorted(SECOND_WORDS), list(SECOND_WORDS))

    def test_three_letters_tell_the_words_of_a_part_and_four_tell_all(self) -> None:
        self.assertEqual([], groups(FIRST_WORDS, lambda word: word[:3]))
        self.assertEqual([], groups(SECOND_WORDS, lambda word: word[:3]))
        self.assertEqual([], groups(ALL_WORDS, lambda word: word[:4]))

    def test_no_two_words_are_spelt_alike(self) -> None:
        """Three mistakes apart: a word with one mistake in it is nearest to itself alone."""
        alike = [(a, b) for a, b in combinations(ALL_WORDS, 2) if close(a, b, 3)]
        self.assertEqual([], alike)

    def test_no_two_words_sound_alike(self) -> None:
        self.assertEqual([], groups(ALL_WORDS, sound))

    def test_no_word_is_another_with_an_ending(self) -> None:
        endings = ("s", "es", "er", "ed", "ing", "y", "ly")
        words = set(ALL_WORDS)
        self.assertEqual([], [w + e for w in words for e in endings if w + e in words])

    def test_a_place_in_the_list_is_for_ever(self) -> None:
        """Devices of different versions pair and compare with one list: a change parts them."""
        digest = hashlib.sha256("\n".join(ALL_WORDS).encode()).hexdigest()
        self.assertEqual("a7cc46c77e223fb8380314c618ab7e922afc8000ea7a66a21d8d85773984ec72", digest)

    def test_the_file_is_ascii_with_one_word_a_line(self) -> None:
        text = resources.files("abst.device").joinpath("words.txt").read_bytes().decode("ascii")
        lines = [line for line in text.split("\n") if not line.startswith("#")]
        self.assertEqual([*FIRST_WORDS, "", *SECOND_WORDS, ""], lines)


class MeasureTests(TestCase):
    """The two measures see what they are meant to see, so that the list's tests can fail."""

    def test_words_that_sound_the_same_have_the_same_sound(self) -> None:
        for one, other in (
            *(("pair", "pear"), ("knight", "night"), ("write", "right"), ("whale", "wail")),
            *(("flour", "flaur"), ("bury", "berry"), ("phase", "face"), ("quay", "key")),
            *(("sealing", "ceiling"), ("badge", "batch"), ("thumb", "thum"), ("jean", "gene")),
            *(("bucket", "pocket"), ("metal", "nettle"), ("petal", "pedal"), ("bison", "basin")),
            *(("scene", "seen"), ("theme", "team"), ("whistle", "wissle"), ("tail", "tale")),
        ):
            self.assertEqual(sound(one), sound(other), (one, other))

    def test_words_that_sound_different_have_different_sounds(self) -> None:
        for one, other in (
            *(("cat", "chat"), ("tin", "chin"), ("ship", "sip"), ("gift", "giant")),
            *(("house", "ounce"), ("lamp", "ramp"), ("acorn", "corn"), ("yarn", "horn")),
        ):
            self.assertNotEqual(sound(one), sound(other), (one, other))

    def test_distance_counts_mistakes(self) -> None:
        for one, other, expected in (
            *(("otter", "otter", 0), ("otter", "ottre", 1), ("otter", "oter", 1)),
            *(("otter", "ootter", 1), ("otter", "utter", 1), ("", "otter", 5), ("ca", "abc", 2)),
            *(("kitten", "sitting", 3), ("marble", "otter", 6)),
        ):
            self.assertEqual(expected, distance(one, other), (one, other))
            self.assertEqual(expected, distance(other, one), (one, other))
            for least in range(1, 8):
                self.assertEqual(expected < least, close(one, other, least), (one, other, least))


class CodeTests(TestCase):
    """Codes are written in one way, and read in many."""

    def assert_refused(self, text: str, *sayings: str) -> None:
        """Assert that a text is refused in one line that says all of `sayings`."""
        error = str(self.assertRaises(AbstError, PairingCode.parse, text))
        for saying in sayings:
            self.assertIn(saying, error)
        self.assertEqual(1, len(error.splitlines()), error)
        self.assertLess(len(error), 200)

    def test_a_code_is_a_number_and_two_words(self) -> None:
        self.assertEqual("7-otter-marble", str(EXAMPLE))
        self.assertEqual(EXAMPLE, PairingCode.parse("7-otter-marble"))

    @given(code=codes())
    def test_what_is_written_is_read_back(self, code: PairingCode) -> None:
        self.assertEqual(code, PairingCode.parse(str(code)))

    @given(
        code=codes(),
        between=st.tuples(*[st.text(" -\t\n\N{EN DASH}\N{NON-BREAKING HYPHEN}", min_size=1)] * 2),
        around=st.tuples(*[st.text(" \n")] * 2),
        upper=st.booleans(),
    )
    def test_blanks_hyphens_and_case_do_not_matter(
        self, code: PairingCode, between: tuple[str, str], around: tuple[str, str], upper: bool
    ) -> None:
        text = f"{code.number}{between[0]}{code.first}{between[1]}{code.second}"
        text = around[0] + (text.upper() if upper else text) + around[1]
        self.assertEqual(code, PairingCode.parse(text))

    def test_zeros_before_a_number_do_not_matter(self) -> None:
        self.assertEqual(EXAMPLE, PairingCode.parse("0007-otter-marble"))

    @given(text=st.text())
    def test_any_text_is_a_code_or_refused(self, text: str) -> None:
        try:
            code = PairingCode.parse(text)
        except AbstError:
            return
        self.assertEqual(code, PairingCode.parse(str(code)))

    @given(
        number=st.sampled_from(["7", "0", "-", "99999", "\N{SUPERSCRIPT TWO}", "9" * 9000]),
        words=st.lists(st.sampled_from(ALL_WORDS) | st.text(max_size=30), max_size=4),
    )
    def test_any_parts_are_a_code_or_refused(self, number: str, words: list[str]) -> None:
        text = "-".join([number, *words])
        try:
            code = PairingCode.parse(text)
        except AbstError as error:
            self.assertEqual(1, len(str(error).splitlines()), error)
            return
        self.assertEqual(code, PairingCode.parse(str(code)))

    def test_a_refusal_says_which_part_is_wrong(self) -> None:
        for text in ("", "7", "7-otter", "7-otter-marble-7", "otter", "7ottermarble", "x" * 90_000):
            self.assert_refused(text, "is no code", "7-otter-marble")
        for number in ("0", "10000", "x", "1.5", "\N{ARABIC-INDIC DIGIT SEVEN}", "0" * 9000):
            self.assert_refused(f"{number}-otter-marble", "is no number of a code", "1 to 9999")
        self.assert_refused("7-q-marble", "'q' is no word of a code", "first word")
        self.assert_refused("7-otter-xyzzyxyzzy", "'xyzzyxyzzy' is no word", "second word")
        self.assert_refused("7-marble-otter", "'marble'", "right order")
        self.assert_refused("7-otter-otter", "'otter' is never the second word", "right order")
        self.assert_refused(f"7-{'o' * 9000}-marble", "is no word of a code")
        self.assert_refused("7-\x1botter-marble", r"'\x1botter'", "did you mean 'otter'?")

    def test_a_misspelt_word_brings_the_nearest(self) -> None:
        error = self.assertRaises(AbstError, PairingCode.parse, "7-ottre-marble")
        self.assertEqual("'ottre' is no word of a code: did you mean 'otter'?", str(error))
        self.assert_refused("7-otter-marbel", "'marbel'", "did you mean 'marble'?")
        self.assert_refused("7-ott-marble", "'ott'", "did you mean 'otter'?")
        self.assert_refused("7-otter-marb", "'marb'", "did you mean 'marble'?")

    @given(
        code=codes(),
        second=st.booleans(),
        mistake=st.sampled_from(["missed", "added", "wrong", "exchanged"]),
        place=st.integers(0, 6),
        letter=st.sampled_from("abcdefghijklmnopqrstuvwxyz"),
    )
    def test_one_mistake_in_a_word_is_always_found(
        self, code: PairingCode, second: bool, mistake: str, place: int, letter: str
    ) -> None:
        word = code.second if second else code.first
        at = place % (len(word) - 1)
        before, one, other, after = word[:at], word[at], word[at + 1], word[at + 2 :]
        typed = {
            "missed": before + other + after,
            "added": before + letter + one + other + after,
            "wrong": before + letter + other + after,
            "exchanged": before + other + one + after,
        }[mistake]
        if typed == word:
            return
        parts = [str(code.number), code.first, code.second]
        parts[2 if second else 1] = typed
        self.assert_refused("-".join(parts), f"did you mean {word!r}?")

    def test_only_codes_can_be_made(self) -> None:
        for number, first, second in (
            *((0, "otter", "marble"), (10_000, "otter", "marble"), (-7, "otter", "marble")),
            *((7, "marble", "otter"), (7, "otter", ""), (7, "Otter", "marble")),
        ):
            self.assertRaises(AbstError, PairingCode, number, first, second)

    def test_each_byte_picks_a_word(self) -> None:
        made = [PairingCode.from_random(7, bytes([i, 255 - i])) for i in range(256)]
        self.assertEqual(list(FIRST_WORDS), [code.first for code in made])
        self.assertEqual(list(reversed(SECOND_WORDS)), [code.second for code in made])
        for wrong in (b"", b"1", b"123"):
            self.assertRaises(ValueError, PairingCode.from_random, 7, wrong)
        self.assertRaises(AbstError, PairingCode.from_random, 0, b"12")

    @given(code=codes(), number=st.integers(1, 9999))
    def test_the_secret_is_the_words_and_never_the_number(
        self, code: PairingCode, number: int
    ) -> None:
        other = PairingCode(number, code.first, code.second)
        self.assertEqual(code.secret, other.secret)
        self.assertEqual(f"{code.first}-{code.second}".encode(), code.secret)

    def test_however_it_is_typed_the_secret_is_the_same(self) -> None:
        self.assertEqual(b"otter-marble", PairingCode.parse(" 7  OTTER - Marble\n").secret)

    def test_the_repr_keeps_the_words_out_of_logs(self) -> None:
        self.assertEqual("PairingCode(number=7)", repr(EXAMPLE))


class CompletionTests(TestCase):
    """TAB goes on from any beginning of a code."""

    def test_a_word_is_completed(self) -> None:
        self.assertEqual(["7-otter"], complete("7-ot"))
        self.assertIn("7-otter-marble", complete("7-otter-ma"))
        self.assertEqual(["7-otter-marble"], complete("7-otter-marb"))
        self.assertEqual(["7-otter-marble"], complete("7-otter-marble"))
        self.assertEqual(["7-otter-marble"], complete("7 OTTER  Marb"))

    def test_after_a_whole_part_the_next_one_is_offered(self) -> None:
        firsts = [f"7-{word}" for word in FIRST_WORDS]
        seconds = [f"7-otter-{word}" for word in SECOND_WORDS]
        for prefix, expected in (
            *(("7", firsts), ("7-", firsts), ("7-otter", seconds), ("7-otter-", seconds)),
        ):
            self.assertEqual(expected, complete(prefix))

    def test_what_no_code_begins_with_gives_nothing(self) -> None:
        for prefix in (
            *("", "-", "x", "0", "10000", "ot", "7-zz", "7-marb", "7-marble-ot", "7-ot-marb"),
            *("7-otter-zz", "7-otter-marble-", "7-otter-marble-x", "7x", "-7-ot"),
        ):
            self.assertEqual([], complete(prefix), prefix)

    @given(code=codes(), length=st.integers(1, 30))
    def test_every_beginning_leads_to_its_code(self, code: PairingCode, length: int) -> None:
        whole = str(code)
        prefix = whole[: max(length, whole.index("-"))]
        found = complete(prefix)
        self.assertTrue(any(whole.startswith(one) for one in found), (prefix, found))
        self.assertTrue(all(one.startswith(prefix) for one in found), (prefix, found))

    @given(code=codes())
    def test_three_letters_of_each_word_are_enough(self, code: PairingCode) -> None:
        (first,) = complete(f"{code.number}-{code.first[:3]}")
        (whole,) = complete(f"{first}-{code.second[:3]}")
        self.assertEqual(str(code), whole)

    @given(prefix=st.text())
    def test_any_text_can_be_asked_about(self, prefix: str) -> None:
        for one in complete(prefix):
            number, first, *_ = one.split("-")
            PairingCode(int(number), first, SECOND_WORDS[0])


class ComparisonTests(TestCase):
    """What two people read to each other, from the first 64 bits of a digest."""

    def test_vectors(self) -> None:
        """For other implementations; an index counts from the first of the first words."""
        for digest, expected in (
            ("0000000000000000", "acrobat acrobat acrobat acrobat 00"),
            ("ffffffffffffffff", "zipline zipline zipline zipline 55"),
            ("4ee1be223000002a", "otter marble violin canyon 42"),
            (
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "shrub seaweed camera chimney 88",
            ),
            (
                "2a6c8e39fe0771af35905057d9acb85518df627da8ee45d278878cf6bfefc5ae",
                "fossil raft juggler papaya 79",
            ),
        ):
            self.assertEqual(expected, comparison_words(bytes.fromhex(digest)), digest)

    @given(
        indices=st.lists(st.integers(0, 511), min_size=4, max_size=4),
        rest=st.integers(0, 2**28 - 1),
        more=st.binary(max_size=24),
    )
    def test_each_bit_has_its_place(self, indices: list[int], rest: int, more: bytes) -> None:
        bits = "".join(f"{index:09b}" for index in indices) + f"{rest:028b}"
        words = " ".join(ALL_WORDS[index] for index in indices)
        digest = int(bits, 2).to_bytes(8, "big") + more
        self.assertEqual(f"{words} {rest % 100:02}", comparison_words(digest))

    def test_it_carries_at_least_42_bits(self) -> None:
        """Counted by the likeliest outcome, which is what a guesser would try."""
        likeliest = math.ceil(2**28 / 100)
        self.assertGreaterEqual(64 - math.log2(likeliest), 42.6)

    def test_a_short_digest_is_refused(self) -> None:
        for length in range(8):
            self.assertRaises(ValueError, comparison_words, bytes(length))
