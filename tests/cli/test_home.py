"""When a command refuses to use a home."""

import os
from pathlib import Path

from twisted.trial.unittest import TestCase

from abst.cli.home import DeviceHome
from abst.errors import ConfigurationError


class CheckTests(TestCase):
    """A home before it is used."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.mkdir(mode=0o700)
        (self.path / "identity.pem").touch()

    def refusal(self) -> str:
        """Return why the home is refused."""
        return str(self.assertRaises(ConfigurationError, DeviceHome(self.path).check))

    def test_a_home_of_ones_own(self) -> None:
        DeviceHome(self.path).check()
        DeviceHome(Path(os.path.relpath(self.path))).check()

    def test_no_identity_and_no_folder(self) -> None:
        (self.path / "identity.pem").unlink()
        self.assertIn("abst init", self.refusal())
        self.path.rmdir()
        self.assertIn("abst init", self.refusal())

    def test_others_may_look_inside(self) -> None:
        for mode in (0o701, 0o710, 0o704, 0o770):
            self.path.chmod(mode)
            self.assertIn(f"chmod 700 {self.path}", self.refusal())
