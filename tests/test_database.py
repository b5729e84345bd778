"""One SQLite file: durable, refused when it is not ours, and left alone then."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

from twisted.trial.unittest import TestCase

from abst.database import Database
from abst.errors import DatabaseError

KIND = 0x41425354
FIRST = "CREATE TABLE note (text TEXT NOT NULL UNIQUE)"
SECOND = "ALTER TABLE note ADD COLUMN extra INTEGER NOT NULL DEFAULT 7"


class DatabaseTests(TestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "state.sqlite"

    def open(self, *migrations: str, kind: int = KIND) -> Database:
        database = Database(self.path, kind, migrations or (FIRST,))
        self.addCleanup(database.close)
        return database

    def texts(self, database: Database) -> list[str]:
        return [row[0] for row in database.read("SELECT text FROM note ORDER BY rowid")]

    def write(self, database: Database, *texts: str) -> None:
        for text in texts:
            database.write("INSERT INTO note (text) VALUES (?)", (text,))

    def assert_refused(self, *words: str, kind: int = KIND) -> None:
        before = self.path.read_bytes()
        problem = self.assertRaises(DatabaseError, Database, self.path, kind, (FIRST,))
        for word in (str(self.path), *words):
            self.assertIn(word, str(problem))
        self.assertEqual(before, self.path.read_bytes())

    def test_what_is_committed_is_there_afterwards_and_nothing_else(self) -> None:
        database = self.open()
        self.write(database, "a", "b")
        database.commit()
        self.write(database, "c")
        self.assertEqual(["a", "b", "c"], self.texts(database))
        database.close()
        self.assertEqual(["a", "b"], self.texts(self.open()))

    def test_many_rows_are_written_as_one_or_not_at_all(self) -> None:
        database = self.open()
        insert = "INSERT INTO note (text) VALUES (?)"
        database.write_many(insert, (("a",), ("b",)))
        database.commit()
        problem = self.assertRaises(DatabaseError, database.write_many, insert, (("c",), ("a",)))
        self.assertIn(str(self.path), str(problem))
        self.assertEqual(["a", "b"], self.texts(database))

    def test_another_connection_sees_it_once_it_is_committed(self) -> None:
        one = self.open()
        self.write(one, "a")
        other = self.open()
        self.assertEqual([], self.texts(other))
        one.commit()
        self.assertEqual(["a"], self.texts(other))

    def test_rolling_back_undoes_everything_since_the_last_commit(self) -> None:
        database = self.open()
        self.write(database, "a")
        database.commit()
        self.write(database, "b", "c")
        database.rollback()
        database.rollback()
        self.assertEqual(["a"], self.texts(database))

    def test_a_write_that_fails_undoes_everything_since_the_last_commit(self) -> None:
        database = self.open()
        self.write(database, "a")
        database.commit()
        self.write(database, "b")
        problem = self.assertRaises(DatabaseError, self.write, database, "a")
        self.assertIn(str(self.path), str(problem))
        self.assertEqual(["a"], self.texts(database))
        self.write(database, "c")
        database.commit()
        self.assertEqual(["a", "c"], self.texts(database))

    def test_a_full_disk_is_told_and_undone(self) -> None:
        database = self.open()
        self.write(database, "a")
        database.commit()
        pages = database.read("PRAGMA page_count")[0][0]
        database.read(f"PRAGMA max_page_count = {pages + 1}")
        self.assertRaises(DatabaseError, self.write, database, "x" * 100_000)
        self.assertEqual(["a"], self.texts(database))

    def test_a_query_that_fails_is_told(self) -> None:
        self.assertRaises(DatabaseError, self.open().read, "SELECT * FROM nothing")

    def test_committing_nothing_and_closing_twice_are_fine(self) -> None:
        database = self.open()
        database.commit()
        database.close()
        database.close()

    def test_only_its_owner_can_read_it(self) -> None:
        database = self.open()
        self.write(database, "a")
        database.commit()
        for path in self.path.parent.iterdir():
            self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode), path)

    def test_it_is_synchronous(self) -> None:
        """What is committed survives power loss: SQLite says how it writes."""
        database = self.open()
        self.assertEqual([("wal",)], database.read("PRAGMA journal_mode"))
        self.assertEqual([(2,)], database.read("PRAGMA synchronous"))
        self.assertEqual([(1,)], database.read("PRAGMA foreign_keys"))

    def test_an_older_version_is_migrated_and_keeps_what_it_has(self) -> None:
        database = self.open(FIRST)
        self.write(database, "a")
        database.commit()
        database.close()
        database = self.open(FIRST, SECOND)
        self.assertEqual([("a", 7)], database.read("SELECT text, extra FROM note"))
        database.close()
        self.assertEqual(["a"], self.texts(self.open(FIRST, SECOND)))

    def test_a_migration_that_fails_changes_nothing(self) -> None:
        self.open(FIRST).close()
        broken = f"{SECOND}; INSERT INTO nothing VALUES (1)"
        self.assertRaises(DatabaseError, Database, self.path, KIND, (FIRST, broken))
        database = self.open(FIRST)
        self.assertEqual([(1,)], database.read("PRAGMA user_version"))
        self.assertEqual([], database.read("SELECT * FROM note"))

    def test_a_newer_version_is_left_alone(self) -> None:
        self.open(FIRST, SECOND).close()
        self.assert_refused("newer version")

    def test_a_database_of_something_else_is_left_alone(self) -> None:
        self.open().close()
        self.assert_refused("something else", kind=KIND + 1)

    def test_somebody_elses_database_is_left_alone(self) -> None:
        with sqlite3.connect(self.path) as other:
            other.execute("CREATE TABLE theirs (x)")
        other.close()
        self.assert_refused("something else")

    def test_what_is_no_database_is_left_alone(self) -> None:
        self.path.write_bytes(b"a shopping list\n" * 100)
        self.assert_refused("not a usable database")

    def test_a_damaged_database_is_left_alone(self) -> None:
        self.open().close()
        data = bytearray(self.path.read_bytes())
        data[:16] = bytes(16)
        self.path.write_bytes(data)
        self.assert_refused()

    def test_a_folder_that_is_not_there_is_told(self) -> None:
        self.path = self.path.parent / "nowhere" / "state.sqlite"
        problem = self.assertRaises(DatabaseError, Database, self.path, KIND, (FIRST,))
        self.assertIn(str(self.path), str(problem))
