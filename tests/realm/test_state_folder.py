"""The state folder: for its owner only, and for one realm at a time."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from abst.errors import ConfigurationError
from abst.realm.state_folder import (
    LOCK_FILE,
    lock_state_folder,
    make_state_folder,
    write_secret,
)


class StateFolderTests(SynchronousTestCase):
    def test_it_is_made_for_its_owner_only(self) -> None:
        path = Path(self.mktemp()) / "below" / "state"
        make_state_folder(path)
        self.assertEqual(0o700, path.stat().st_mode & 0o777)
        make_state_folder(path)

    def test_a_file_in_its_place_is_named(self) -> None:
        path = Path(self.mktemp())
        path.write_text("", "ascii")
        error = self.assertRaises(ConfigurationError, make_state_folder, path)
        self.assertIn(str(path), str(error))

    def test_one_realm_at_a_time(self) -> None:
        path = Path(self.mktemp())
        make_state_folder(path)
        lock = lock_state_folder(path)
        error = self.assertRaises(ConfigurationError, lock_state_folder, path)
        self.assertIn("another realm is running there", str(error))
        os.close(lock)
        os.close(lock_state_folder(path))
        self.assertEqual(0o600, (path / LOCK_FILE).stat().st_mode & 0o777)


class SecretTests(SynchronousTestCase):
    def test_only_its_owner_may_read_it_whoever_could_read_the_one_before(self) -> None:
        path = Path(self.mktemp())
        path.write_text("before", "ascii")
        path.chmod(0o644)
        write_secret(path, "after\n")
        self.assertEqual("after\n", path.read_text("ascii"))
        self.assertEqual(0o600, path.stat().st_mode & 0o777)

    def test_one_that_cannot_be_written_leaves_nothing(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "taken").mkdir()
        self.assertRaises(OSError, write_secret, folder / "taken", "secret")
        self.assertEqual(["taken"], os.listdir(folder))
