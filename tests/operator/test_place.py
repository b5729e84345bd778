"""Which realm is meant, when nobody says it and when somebody does."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from abst.errors import AbstError, ConfigurationError
from abst.operator.place import Place, find_place
from abst.realm.state_folder import CONTROL_SOCKET


class PlaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.service = self.folder / "var"
        self.config = self.folder / "realm.toml"
        self.own = self.folder / "xdg" / "abst-realm"
        for folder in (self.service, self.own):
            folder.mkdir(parents=True)

    def find(self, state: Path | None = None, config: Path | None = None) -> Place:
        environment = {"XDG_STATE_HOME": str(self.own.parent)}
        return find_place(state, config, environment, self.config, self.service)

    def run_at(self, state: Path) -> None:
        """Let it look as if a realm ran there."""
        (state / CONTROL_SOCKET).touch()

    def test_the_folder_that_is_named(self) -> None:
        self.run_at(self.service)
        self.assertEqual(Place(self.folder, self.config), self.find(self.folder))
        self.assertEqual(Path.home() / "realm", self.find(Path("~/realm")).state)
        error = self.assertRaises(AbstError, self.find, Path("~nobody.here/realm"))
        self.assertEqual("~nobody.here/realm: there is no such user", str(error))

    def test_the_services_when_it_runs_else_ones_own(self) -> None:
        self.run_at(self.own)
        self.assertEqual(self.own, self.find().state)
        self.run_at(self.service)
        self.assertEqual(self.service, self.find().state)

    def test_the_services_is_where_its_configuration_says(self) -> None:
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        self.run_at(self.own)
        self.run_at(elsewhere)
        self.config.write_text(f'state = "{elsewhere}"\n', "utf-8")
        self.assertEqual(elsewhere, self.find().state)

    def test_a_configuration_that_is_being_written_keeps_nobody_from_the_realm(self) -> None:
        self.run_at(self.service)
        nobodys = 'state = "~nobody.here/realm"'
        for text in ("limits = ", "state = 5", 'state = ""', nobodys, "[limits]\nnonsense = 1"):
            self.config.write_text(text, "utf-8")
            self.assertEqual(self.service, self.find().state)

    def test_a_configuration_that_is_named_has_to_be_there(self) -> None:
        other = self.folder / "other.toml"
        self.assertRaises(ConfigurationError, self.find, None, other)
        other.write_text("limits = ", "utf-8")
        self.assertRaises(ConfigurationError, self.find, None, other)
        other.write_text(f'state = "{self.folder}"', "utf-8")
        self.assertEqual(Place(self.folder, other), self.find(None, other))
        other.write_text('host = "realm.example.org"', "utf-8")
        self.run_at(self.service)
        self.assertEqual(Place(self.service, other), self.find(None, other))

    def test_where_nothing_runs_root_means_the_service(self) -> None:
        self.assertEqual(self.service if os.geteuid() == 0 else self.own, self.find().state)
        self.service.rmdir()
        self.assertEqual(self.own, self.find().state)
