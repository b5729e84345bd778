"""The wheel, installed where nothing else is: what a person gets from `pip install abst`."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import ClassVar
from unittest import SkipTest

from twisted.trial.unittest import TestCase

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.py", "setup.cfg", "MANIFEST.in", "LICENSE", "README.md", "abst", "twisted")
CONSTRAINTS = os.environ.get("ABST_CONSTRAINTS", str(ROOT / "constraints" / "latest.txt"))
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "dropin.cache")


def run(*command: str | Path, folder: Path) -> str:
    """Run a command away from the checkout, and return what it printed; raise if it failed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    process = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if process.returncode:
        raise AssertionError(f"{command} exited with {process.returncode}:\n{process.stdout}")
    return process.stdout


def build(folder: Path) -> Path:
    """Build the wheel from a copy of the sources in `folder`, and return its path."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=LEFT_BEHIND)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    pip_wheel = ("pip", "wheel", "--no-deps", "--no-build-isolation", "--use-pep517")
    run(sys.executable, "-m", *pip_wheel, "--wheel-dir", folder, source, folder=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


class WheelTests(TestCase):
    """One wheel, built and installed once for all of these tests."""

    # The folder in which it was done. trial has no setUpClass, so the first test does it.
    folder: ClassVar[Path | None] = None

    def setUp(self) -> None:
        if int(metadata.version("setuptools").partition(".")[0]) < 77:
            raise SkipTest("building needs setuptools 77, which `make test` installs")
        if WheelTests.folder is None:
            folder = Path(self.mktemp()).resolve()
            folder.mkdir()
            wheel = build(folder)
            venv.create(folder / "venv", symlinks=True)
            pip = (sys.executable, "-m", "pip", "--python", folder / "venv" / "bin" / "python")
            run(*pip, "install", "--constraint", CONSTRAINTS, wheel, folder=folder)
            WheelTests.folder = folder
        self.place = WheelTests.folder

    def run_installed(self, program: str, *arguments: str) -> str:
        """Run a command of the fresh virtual environment, and return what it printed."""
        return run(self.place / "venv" / "bin" / program, *arguments, folder=self.place)

    def test_it_holds_the_package_and_the_plugin_and_nothing_else(self) -> None:
        (wheel,) = self.place.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            found = {name for name in archive.namelist() if ".dist-info/" not in name}
        expected = {
            str(path.relative_to(ROOT))
            for path in [*ROOT.glob("abst/**/*.py"), *ROOT.glob("twisted/plugins/*.py")]
        }
        page = {f"abst/realm/web/page.{kind}" for kind in ("css", "html", "js")}
        page.add("abst/realm/web/icon.svg")
        self.assertEqual(expected | page | {"abst/py.typed", "abst/device/words.txt"}, found)

    def test_twistd_offers_the_realm_and_the_agent(self) -> None:
        offered = self.run_installed("twistd", "--help")
        for command in ("abst-realm", "abst-device"):
            self.assertTrue(re.search(rf"^\s+{command}\s+\S", offered, re.MULTILINE), offered)

    def test_both_services_explain_their_options(self) -> None:
        for command in ("abst-realm", "abst-device"):
            self.assertIn("Usage:", self.run_installed("twistd", command, "--help"))

    def test_the_command_line_explains_itself(self) -> None:
        self.assertIn("Usage: abst", self.run_installed("abst", "--help"))

    def test_it_carries_the_version_of_the_source(self) -> None:
        program = "import abst, importlib.metadata as m; print(m.version('abst'), abst.__version__)"
        installed, source = self.run_installed("python", "-c", program).split()
        self.assertEqual(installed, source)
