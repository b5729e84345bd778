"""Names are given without ever replacing what has one, whatever happens between choice and gift."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from abst.agent.files.naming import MAX_SAME_NAMES, NAME_TAKEN, free_name, give_name


class NamingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.descriptor = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.descriptor)

    def draft(self, *, is_folder: bool) -> None:
        draft = self.folder / "draft"
        if is_folder:
            draft.mkdir()
            draft /= "inner"
        draft.write_text("new")

    def test_a_name_is_given(self) -> None:
        for is_folder in (False, True):
            self.draft(is_folder=is_folder)
            give_name("draft", f"{is_folder}", self.descriptor, is_folder=is_folder)
            path = self.folder / f"{is_folder}"
            self.assertEqual("new", (path / "inner" if is_folder else path).read_text())
        self.assertEqual(["False", "True"], sorted(os.listdir(self.folder)))

    def test_what_has_the_name_by_now_stays(self) -> None:
        (self.folder / "file").write_text("old")
        (self.folder / "folder").mkdir()
        (self.folder / "full").mkdir()
        (self.folder / "full" / "file").write_text("old")
        (self.folder / "link").symlink_to("nowhere")
        for is_folder in (False, True):
            self.draft(is_folder=is_folder)
            for name in ("file", "folder", "full", "link"):
                error = self.assertRaises(
                    *(OSError, give_name, "draft", name, self.descriptor), is_folder=is_folder
                )
                self.assertIn(error.errno, NAME_TAKEN)
            (self.folder / "draft").rename(self.folder / f"still here {is_folder}")
        self.assertEqual("old", (self.folder / "file").read_text())
        self.assertEqual([], os.listdir(self.folder / "folder"))
        self.assertEqual("nowhere", os.readlink(self.folder / "link"))

    def test_a_free_name_is_like_the_wanted_one(self) -> None:
        for expected in ("a.b.txt", "a.b (1).txt", "a.b (2).txt"):
            self.assertEqual(expected, free_name("a.b.txt", self.descriptor))
            (self.folder / expected).symlink_to("nowhere")

    def test_a_number_has_room_and_hidden_names_stay_hidden(self) -> None:
        long = "." + "x" * 100
        for taken, expected in (
            (".env", ".env (1)"),
            ("x" * 255, "x" * 251 + " (1)"),
            ("写" * 83 + ".tar", "写" * 82 + " (1).tar"),
            ("a" + long, "a" + long + " (1)"),
        ):
            (self.folder / taken).touch()
            self.assertEqual(expected, free_name(taken, self.descriptor))

    def test_there_is_an_end_to_names(self) -> None:
        for number in range(MAX_SAME_NAMES):
            (self.folder / (f"x ({number})" if number else "x")).touch()
        self.assertIsNone(free_name("x", self.descriptor))
