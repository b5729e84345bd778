"""
The constraint files: each pins one version of every dependency, and that version is what runs.
"""

import configparser
import os
import re
from importlib import metadata
from pathlib import Path
from unittest import SkipTest

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import TestCase

ROOT = Path(__file__).parent.parent
NOT_PINNED = {"abst", "pip"}


def pins(path: Path) -> dict[str, str]:
    """Return the version that `path` gives each distribution on this Python."""
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            found[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return found


def required(*extras: str) -> list[Requirement]:
    """Return what setup.cfg requires at run time and for `extras`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"]]
    lists += [config["options.extras_require"][extra] for extra in extras]
    return [Requirement(line) for text in lists for line in text.split("\n") if line.strip()]


class ConstraintsTests(TestCase):
    """The two sets, and the environment that runs these tests."""

    def check_requirements(self, name: str, *extras: str) -> None:
        """Assert that `name` pins exactly one allowed version of everything that is required."""
        pinned = pins(ROOT / "constraints" / name)
        for requirement in required(*extras):
            version = pinned.get(canonicalize_name(requirement.name), "")
            self.assertTrue(re.fullmatch(r"==[^*]+", version), f"{requirement.name}: {version!r}")
            self.assertIn(version.removeprefix("=="), requirement.specifier, requirement.name)

    def test_the_latest_set_pins_every_requirement(self) -> None:
        self.check_requirements("latest.txt", "test", "check", "bench")

    def test_the_debian_set_pins_every_requirement(self) -> None:
        self.check_requirements("debian-13.txt", "test")

    def test_everything_that_is_installed_is_pinned(self) -> None:
        """What a dependency brings along is pinned too, or tomorrow's run is not today's."""
        if "ABST_CONSTRAINTS" not in os.environ:
            raise SkipTest("only in an environment that `make test` made")
        pinned = pins(Path(os.environ["ABST_CONSTRAINTS"]))
        installed = {
            canonicalize_name(found.metadata["Name"]): f"=={found.version}"
            for found in metadata.distributions()
        }
        for name in installed.keys() - NOT_PINNED:
            self.assertEqual(installed[name], pinned.get(name, "no pin"), name)
