"""Names that others have chosen do no harm here, and stay as they are where they can."""

from __future__ import annotations

import os

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.files.foreign_names import (
    MAX_ITEM_NAME_BYTES,
    MAX_NAME_BYTES,
    inner_name,
    item_name,
)

any_text = st.text(st.characters(), max_size=300)
"""Surrogates included: a name that is not Unicode on the sender's disk brings them."""


class ItemNameTests(SynchronousTestCase):
    """What becomes of the name of what stands in the inbox itself."""

    def test_only_the_last_part_of_a_path_is_kept(self) -> None:
        for name, plain in (
            ("photo.jpg", "photo.jpg"),
            ("/etc/passwd", "passwd"),
            ("../../etc/passwd", "passwd"),
            ("..\\..\\windows\\system.ini", "system.ini"),
            ("C:\\Users\\a\\b.txt", "b.txt"),
            ("folder/", "folder"),
            ("a//b///", "b"),
            ("\\\\server\\share\\x", "x"),
        ):
            self.assertEqual(plain, item_name(name), name)

    def test_what_is_no_name_gets_one(self) -> None:
        for name in ("", ".", "..", "...", "/", "//", "\\", "../..", " ", ". .", "-", "~", "--- "):
            self.assertEqual("unnamed", item_name(name), repr(name))

    def test_no_name_hides_or_reads_as_an_option(self) -> None:
        for name, plain in (
            (".bashrc", "bashrc"),
            ("..hidden", "hidden"),
            ("-rf", "rf"),
            ("--help", "help"),
            ("~root", "root"),
            (".-~ x", "x"),
            ("trailing. . ", "trailing"),
        ):
            self.assertEqual(plain, item_name(name), name)

    def test_control_characters_go(self) -> None:
        self.assertEqual("a_b_c_d_e", item_name("a\0b\nc\x1bd\x7fe"))
        self.assertEqual("harmless_gpj.exe", item_name("harmless\u202egpj.exe"))
        self.assertEqual("caf_.txt", item_name("caf\udce9.txt"))

    def test_other_languages_stay(self) -> None:
        for name in ("Übergröße.pdf", "写真.jpg", "😀.png", "naïve.txt", "a b.txt"):
            self.assertEqual(name, item_name(name))

    def test_a_long_name_keeps_its_end(self) -> None:
        self.assertEqual("a" * (MAX_ITEM_NAME_BYTES - 4) + ".jpg", item_name("a" * 1000 + ".jpg"))
        shortened = item_name("写" * 300 + ".tar")
        self.assertTrue(shortened.endswith("写.tar"))
        self.assertLessEqual(len(shortened.encode()), MAX_ITEM_NAME_BYTES)
        self.assertEqual(MAX_ITEM_NAME_BYTES, len(item_name("x." + "y" * 1000)))

    @given(any_text)
    @example("a" * 250 + "." + "." * 4)
    @example("." * 300)
    @example("a" * 199 + " " + "b" * 50)
    @example("a" * 198 + "._ " + "b" * 50)
    @example("\udcff" * 255)
    @example("x" * 199 + "/.." + "\0")
    @example("a" * 190 + " ." * 30)
    def test_any_name_is_one_plain_entry(self, name: str) -> None:
        plain = item_name(name)
        self.assertTrue(plain)
        self.assertLessEqual(len(os.fsencode(plain)), MAX_ITEM_NAME_BYTES)
        self.assertNotIn("/", plain)
        self.assertNotIn("\\", plain)
        self.assertTrue(plain.isprintable())
        self.assertNotIn(plain[0], ".-~ ")
        self.assertEqual(plain, plain.strip())
        self.assertNotIn(plain, (".", ".."))
        self.assertEqual(plain, item_name(plain), "it stays as it is")


class InnerNameTests(SynchronousTestCase):
    """What becomes of a name inside a folder."""

    def test_names_are_kept(self) -> None:
        for name in (
            *(
                ".git",
                ".env",
                "..a",
                "...",
                "-rf",
                "--help",
                "~",
                "~root",
                "a\\b",
                "a.",
                "b ",
                " c",
            ),
            *(
                "Bildschirmfoto 10.00.00\u202fPM.png",
                "全角\u3000空白",
                "👩\u200d🚀",
                "*",
                "a:b",
                '"',
            ),
            *("." + "0" * 32 + ".abst-partial", "x" * 255, "写" * 85),
        ):
            self.assertEqual(name, inner_name(name))

    def test_what_does_harm_anywhere_is_replaced(self) -> None:
        for name, inner in (
            ("..", "unnamed"),
            (".", "unnamed"),
            ("", "unnamed"),
            ("/", "_"),
            ("../up", ".._up"),
            ("a\0b\nc\x1b[2J\x7f\x9b", "a_b_c_[2J__"),
            ("two\u2028lines", "two_lines"),
            ("harmless\u202egpj.exe", "harmless_gpj.exe"),
            ("caf\udce9", "caf?"),
        ):
            self.assertEqual(inner, inner_name(name), repr(name))

    def test_a_long_name_keeps_its_end(self) -> None:
        self.assertEqual("写" * 83 + ".tar", inner_name("写" * 251 + ".tar"))
        self.assertEqual("." + "写" * 84, inner_name("." + "写" * 254))

    @given(any_text)
    @example("a" * 250 + ".")
    @example("/" * 255)
    @example("写" * 255)
    def test_any_name_is_one_entry_and_stays_one(self, name: str) -> None:
        inner = inner_name(name)
        self.assertNotIn(inner, ("", ".", ".."))
        self.assertNotIn("/", inner)
        self.assertNotIn("\0", inner)
        self.assertLessEqual(len(os.fsencode(inner)), MAX_NAME_BYTES)
        self.assertEqual(inner, inner_name(inner))
