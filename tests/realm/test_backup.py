"""Backups: whole, of one moment while the realm writes on, and refused when they were altered."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.errors import AbstError, IdentityError
from abst.identity import Identity
from abst.realm.backup import (
    MANIFEST_FILE,
    BackupError,
    new_snapshot_file,
    remove_snapshots,
    rights_of_owner,
    snapshot,
    stopped_realm,
    write_backup,
)
from abst.realm.restore import restore
from abst.realm.state_folder import IDENTITY_FILE, STORE_FILE, lock_state_folder
from abst.realm.store.interface import Addition, Change, GroupRecord
from abst.realm.store.tables import Tables

GROUP = b"g" * 16
RECORD = GroupRecord(GROUP, 3, b"k" * 32, b"m" * 16)


def change(revision: int) -> Addition:
    """Return a group's change with a number."""
    content = b"value %d" % revision
    made = Change(revision, revision.to_bytes(32), bytes(32), bytes(32), content)
    return Addition(GROUP, [made], revision)


def revisions(path: Path) -> list[int]:
    """Return the numbers of the changes that a database has."""
    tables = Tables(path)
    try:
        return [made.revision for made in tables.read((GROUP, 1, 2**40)).changes]
    finally:
        tables.close()


class BackupTestCase(SynchronousTestCase):
    """A stopped realm with a group that has three values, and a backup of it."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.state = self.folder / "state"
        self.state.mkdir(parents=True, mode=0o700)
        self.identity = Identity.load_or_create(self.state / IDENTITY_FILE)
        tables = Tables(self.state / STORE_FILE)
        tables.put_group(RECORD)
        for revision in (1, 2, 3):
            tables.add(change(revision))
        tables.commit()
        tables.close()
        self.file = self.folder / "backup.tar"

    def back_up(self) -> None:
        copy = new_snapshot_file(self.state)
        snapshot(self.state / STORE_FILE, copy)
        self.made = write_backup(self.state, copy, self.file)
        copy.unlink()

    def assert_restored(self, state: Path) -> None:
        """Assert that a state folder has what was backed up, for its owner alone."""
        self.assertEqual(self.identity.device_id, Identity.load(state / IDENTITY_FILE).device_id)
        self.assertEqual([1, 2, 3], revisions(state / STORE_FILE))
        self.assertEqual({IDENTITY_FILE, STORE_FILE}, set(os.listdir(state)))
        self.assertEqual(0o700, state.stat().st_mode & 0o777)
        for name in (IDENTITY_FILE, STORE_FILE):
            self.assertEqual(0o600, (state / name).stat().st_mode & 0o777)


class WriteTests(BackupTestCase):
    def test_what_was_backed_up_comes_back(self) -> None:
        self.back_up()
        self.assertEqual(0o600, self.file.stat().st_mode & 0o777)
        new = self.folder / "elsewhere" / "state"
        found, aside = restore(self.file, new)
        self.assertEqual((self.made, None), (found, aside))
        self.assertEqual(str(self.identity.device_id), found.realm)
        self.assert_restored(new)

    def test_an_empty_folder_is_filled(self) -> None:
        self.back_up()
        new = self.folder / "new"
        new.mkdir(mode=0o755)
        restore(self.file, new)
        self.assert_restored(new)

    def test_every_commit_before_it_is_in_it_while_the_realm_writes_on(self) -> None:
        committed = [3]
        is_over = threading.Event()

        def write() -> None:
            tables = Tables(self.state / STORE_FILE)
            while not is_over.is_set():
                tables.add(change(committed[0] + 1))
                tables.commit()
                committed[0] += 1
            tables.close()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(3):
                begun = committed[0]
                while committed[0] < begun + 5:
                    pass
                least = committed[0]
                copy = new_snapshot_file(self.state)
                snapshot(self.state / STORE_FILE, copy)
                found = revisions(copy)
                self.assertEqual(list(range(1, len(found) + 1)), found)
                self.assertGreaterEqual(len(found), least)
                copy.unlink()
        finally:
            is_over.set()
            writer.join(10)

    def test_a_file_that_is_there_stays(self) -> None:
        self.file.write_text("precious", "ascii")
        error = self.assertRaises(BackupError, self.back_up)
        self.assertIn("--force", str(error))
        self.assertEqual("precious", self.file.read_text("ascii"))
        write_backup(self.state, self.state / STORE_FILE, self.file, replaces=True)
        self.assertNotEqual(b"precious", self.file.read_bytes()[:8])
        self.assertEqual({"backup.tar", "state"}, set(os.listdir(self.folder)))

    def test_a_file_that_came_meanwhile_stays_on_any_file_system(self) -> None:
        def no_links(*names: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        self.patch(os, "link", no_links)
        self.back_up()
        self.patch(os.path, "lexists", lambda path: False)
        before = self.file.read_bytes()
        self.assertRaises(BackupError, self.back_up)
        self.assertEqual(before, self.file.read_bytes())
        self.assertEqual({"backup.tar", "state"}, set(os.listdir(self.folder)))

    def test_what_cannot_be_written_leaves_nothing(self) -> None:
        (self.state / IDENTITY_FILE).unlink()
        self.assertRaises(AbstError, write_backup, self.state, self.state / STORE_FILE, self.file)
        self.assertEqual(["state"], os.listdir(self.folder))

    def test_a_folder_that_is_not_there_is_named(self) -> None:
        target = self.folder / "missing" / "backup.tar"
        error = self.assertRaises(
            BackupError, write_backup, self.state, self.state / STORE_FILE, target
        )
        self.assertEqual(f"{target.parent}: No such file or directory", str(error))

    def test_a_link_is_not_taken_for_the_database(self) -> None:
        link = self.folder / "link"
        link.symlink_to(self.state / STORE_FILE)
        self.assertRaises(BackupError, write_backup, self.state, link, self.file)

    def test_a_database_that_is_missing_is_not_made(self) -> None:
        (self.state / STORE_FILE).unlink()
        copy = new_snapshot_file(self.state)
        self.assertRaises(BackupError, snapshot, self.state / STORE_FILE, copy)
        self.assertFalse((self.state / STORE_FILE).exists())

    def test_copies_that_a_killed_realm_has_left_are_removed(self) -> None:
        new_snapshot_file(self.state)
        remove_snapshots(self.state)
        self.assertEqual({IDENTITY_FILE, STORE_FILE}, set(os.listdir(self.state)))


class RefusedTests(BackupTestCase):
    """Nothing is restored of what is not whole, and nothing changes."""

    def setUp(self) -> None:
        super().setUp()
        self.back_up()
        self.whole = self.file.read_bytes()
        self.target = self.folder / "target"

    def refused(self, content: bytes) -> str:
        """Return why a file of that content is refused."""
        self.file.write_bytes(content)
        error = self.assertRaises(AbstError, restore, self.file, self.target)
        self.assertEqual({"backup.tar", "state"}, set(os.listdir(self.folder)))
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_what_is_cut_off(self) -> None:
        end = self.whole.rindex(b"}")
        for size in (0, 511, 512, 700, len(self.whole) // 2, end - 1, end):
            self.refused(self.whole[:size])

    @settings(max_examples=20)
    @given(st.data())
    def test_one_bit_that_is_another(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.whole) - 1))
        altered = bytearray(self.whole)
        altered[at] ^= 1 << data.draw(st.integers(0, 7))
        self.file.write_bytes(altered)
        try:
            restore(self.file, self.target)
        except AbstError:
            self.assertEqual({"backup.tar", "state"}, set(os.listdir(self.folder)))
        else:
            # What stands between the files of an archive has no meaning.
            self.assert_restored(self.target)
            shutil.rmtree(self.target)

    def test_a_value_that_is_another(self) -> None:
        self.assertIn(b"value 2", self.whole)
        said = self.refused(self.whole.replace(b"value 2", b"value 5"))
        self.assertIn("altered", said)

    def test_every_bit_of_the_manifest(self) -> None:
        begin = self.whole.index(b'{\n  "format"')
        end = self.whole.index(b'"\n}', begin) + 3
        for at in range(begin, end, 37):
            altered = bytearray(self.whole)
            altered[at] ^= 1
            self.refused(bytes(altered))

    def test_another_archive(self) -> None:
        for members in (
            {"notes.txt": b"x"},
            {IDENTITY_FILE: self.identity.to_pem()},
            {IDENTITY_FILE: b"", STORE_FILE: b"", MANIFEST_FILE: b"[" * 9999},
            {IDENTITY_FILE: b"", STORE_FILE: b"", MANIFEST_FILE: b"{}"},
            {IDENTITY_FILE: b"", STORE_FILE: b"", MANIFEST_FILE: b'{"format": 2}'},
            {"../" + IDENTITY_FILE: self.identity.to_pem(), STORE_FILE: b""},
        ):
            self.refused(archive(members))

    def test_more_than_a_backup_has(self) -> None:
        found = self.members()
        self.assertIn("more in it", self.refused(archive({**found, "extra": b""})))

    def test_a_database_of_something_else(self) -> None:
        """Whoever writes a manifest can make it fit; what a realm starts with has to be right."""
        found = self.members()
        for content in (b"somebody's notes" * 100, b""):
            self.refused(archive(self.with_manifest({**found, STORE_FILE: content})))

    def test_the_key_of_another_realm(self) -> None:
        key = Identity.generate().to_pem()
        found = self.with_manifest({**self.members(), IDENTITY_FILE: key})
        self.assertIn("another realm", self.refused(archive(found)))

    def test_a_link_in_the_archive(self) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as made:
            entry = tarfile.TarInfo(IDENTITY_FILE)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            made.addfile(entry)
        self.refused(out.getvalue())

    def test_no_file_at_all(self) -> None:
        self.file.unlink()
        error = self.assertRaises(BackupError, restore, self.file, self.target)
        self.assertIn(str(self.file), str(error))

    def members(self) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(self.whole)) as found:
            return {entry.name: found.extractfile(entry).read() for entry in found}  # type: ignore[union-attr]

    def with_manifest(self, members: dict[str, bytes]) -> dict[str, bytes]:
        """Return an archive's members with a manifest that fits them."""
        manifest = json.loads(members[MANIFEST_FILE])
        del manifest["sha256"]
        for name in (IDENTITY_FILE, STORE_FILE):
            digest = hashlib.sha256(members[name]).hexdigest()
            manifest["files"][name] = {"bytes": len(members[name]), "sha256": digest}
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return {**members, MANIFEST_FILE: json.dumps(manifest).encode()}


class PlaceTests(BackupTestCase):
    """Where a backup may be restored to."""

    def setUp(self) -> None:
        super().setUp()
        self.back_up()

    def test_a_folder_with_anything_in_it_is_left_alone(self) -> None:
        before = set(os.listdir(self.state))
        error = self.assertRaises(BackupError, restore, self.file, self.state)
        self.assertIn("--force", str(error))
        self.assertEqual(before, set(os.listdir(self.state)))

    def test_what_was_there_is_kept_beside(self) -> None:
        (self.state / "address").write_text("abst://before/", "ascii")
        _, aside = restore(self.file, self.state, replaces=True)
        assert aside is not None
        self.assertEqual(self.folder, aside.parent)
        self.assertEqual("abst://before/", (aside / "address").read_text("ascii"))
        self.assert_restored(self.state)

    def test_a_realm_that_runs_is_left_alone(self) -> None:
        lock = lock_state_folder(self.state)
        error = self.assertRaises(BackupError, restore, self.file, self.state, replaces=True)
        self.assertIn("stop it first", str(error))
        os.close(lock)
        restore(self.file, self.state, replaces=True)

    def test_no_realm_starts_meanwhile(self) -> None:
        os.close(lock_state_folder(self.state))
        with stopped_realm(self.state):
            self.assertRaises(AbstError, lock_state_folder, self.state)
        os.close(lock_state_folder(self.state))

    def test_a_bad_backup_leaves_the_state_where_it_is(self) -> None:
        self.file.write_bytes(self.file.read_bytes()[:-3000])
        self.assertRaises(BackupError, restore, self.file, self.state, replaces=True)
        self.assert_restored(self.state)
        self.assertEqual({"backup.tar", "state"}, set(os.listdir(self.folder)))


class RootTests(BackupTestCase):
    """Root does not trust the folder of a user with fewer rights: it may be somebody else's by now.

    The realm's user could otherwise become root with the next backup.
    """

    if os.geteuid() != 0:
        skip = "needs root"

    OWNER = 65534

    def setUp(self) -> None:
        super().setUp()
        # Its owner has to reach it, past the folders that the tests are run in.
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.place.chmod(0o755)
        self.secret = self.place / "secret"
        with contextlib.closing(sqlite3.connect(self.secret)) as database:
            database.execute("CREATE TABLE roots (word)")
        self.secret.chmod(0o600)
        self.state = self.state.rename(self.place / "state")
        for path in (*self.state.iterdir(), self.state):
            os.chown(path, self.OWNER, self.OWNER)

    def test_a_copy_is_made_with_the_rights_of_the_folders_owner(self) -> None:
        with rights_of_owner(self.state.stat()):
            copy = new_snapshot_file(self.state)
            snapshot(self.state / STORE_FILE, copy)
        self.assertEqual((self.OWNER, 0), (copy.stat().st_uid, os.geteuid()))
        self.assertEqual([1, 2, 3], revisions(copy))

    def test_links_lead_it_nowhere(self) -> None:
        link = self.state / "link"
        link.symlink_to(self.secret)
        before = self.secret.read_bytes()
        with rights_of_owner(self.state.stat()):
            self.assertRaises(BackupError, snapshot, link, new_snapshot_file(self.state))
            self.assertRaises(BackupError, snapshot, self.state / STORE_FILE, link)
        self.assertEqual(before, self.secret.read_bytes())

    def test_a_key_of_roots_is_in_no_backup(self) -> None:
        Identity.generate().save(self.place / "key.pem")
        (self.state / IDENTITY_FILE).unlink()
        (self.state / IDENTITY_FILE).symlink_to(self.place / "key.pem")
        os.lchown(self.state / IDENTITY_FILE, self.OWNER, self.OWNER)
        error = self.assertRaises(IdentityError, self.back_up)
        self.assertIn("Permission denied", str(error))
        self.assertFalse(self.file.exists())

    def test_a_realm_of_roots_in_somebodys_folder_is_backed_up(self) -> None:
        for path in self.state.iterdir():
            os.chown(path, 0, 0)
        self.back_up()
        self.assertEqual(str(self.identity.device_id), self.made.realm)

    def test_what_is_put_back_can_be_replaced_when_all_of_it_has_its_owner(self) -> None:
        chown = os.chown

        def chown_and_lay_a_trap(path: Path, *owner: int, **options: bool) -> None:
            chown(path, *owner, **options)
            if path.is_dir():
                for file in path.iterdir():
                    file.unlink()
                    file.symlink_to(self.secret)

        self.back_up()
        self.patch(os, "chown", chown_and_lay_a_trap)
        restore(self.file, self.state, replaces=True)
        self.assertEqual(self.OWNER, self.state.stat().st_uid)
        self.assertEqual(0, self.secret.stat().st_uid)


def archive(members: dict[str, bytes]) -> bytes:
    """Return a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return out.getvalue()
