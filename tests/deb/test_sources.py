"""What the packages are made from: units, manual pages, completion, versions."""

from __future__ import annotations

import configparser
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

import abst
from abst.cli.program import COMMANDS
from abst.operator import program as operator_program
from abst.realm.capacity import files_for
from abst.realm.config import Config
from abst.realm.limits import Limits
from abst.realm.tap import Options

ROOT = Path(__file__).parent.parent.parent
MAN = ROOT / "docs" / "man"


def run(*command: str, **environment: str) -> str:
    """Run this Python in the checkout and return what it wrote."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout


class UnitTests(TestCase):
    def unit(self, name: str) -> configparser.SectionProxy:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        parser.read(ROOT / "etc" / "systemd" / name)
        return parser["Service"]

    def test_the_realm_may_open_what_its_limits_need(self) -> None:
        allowed = int(self.unit("abst-realm.service")["LimitNOFILE"])
        self.assertGreaterEqual(allowed, files_for(Limits()))

    def test_no_key_gets_into_a_core_file(self) -> None:
        for name in ("abst-realm.service", "abst-agent.service"):
            self.assertEqual("0", self.unit(name)["LimitCORE"])

    def test_state_folder_and_user_are_the_same_everywhere(self) -> None:
        service = self.unit("abst-realm.service")
        user = (ROOT / "debian" / "abst-realm.sysusers").read_text("utf-8").split()
        self.assertEqual(service["User"], user[1])
        self.assertIn(f"/var/lib/{service['StateDirectory']}", user)
        removed = (ROOT / "debian" / "abst-realm.postrm").read_text("utf-8")
        self.assertIn(f"rm -rf /var/lib/{service['StateDirectory']} ", removed)


class ManualTests(TestCase):
    def setUp(self) -> None:
        where = importlib.util.spec_from_file_location("make", MAN / "make.py")
        assert where is not None and where.loader is not None
        self.make = importlib.util.module_from_spec(where)
        where.loader.exec_module(self.make)

    def test_every_command_is_explained(self) -> None:
        page = self.make.abst_1().replace("\\", "")
        for name in COMMANDS:
            self.assertIn(f"\n.SS fBabst {name}fR", page)
        for words in ("abst peers add-address", "fB--if-revisionfR fINfR", "abst message laptop"):
            self.assertIn(words, page)

    def test_every_setting_is_explained(self) -> None:
        page = self.make.realm_toml_5().replace("\\", "")
        for setting in dataclasses.fields(Config):
            self.assertIn(f"fB{setting.name}fR (" if setting.name != "limits" else "LIMITS", page)
        for limit in dataclasses.fields(Limits):
            self.assertRegex(page, rf"\n.TP\nfB{limit.name}fR = {limit.default}\n[A-Z].+\.\n")

    def test_all_pages_are_put_into_a_folder(self) -> None:
        folder = Path(self.mktemp())
        self.make.write(folder)
        found = {path.name for path in folder.iterdir()}
        self.assertEqual({"abst.1", "abst-realm.8", "realm.toml.5"}, found)

    def test_every_option_of_the_realm_is_explained(self) -> None:
        page = self.make.abst_realm_8().replace("\\", "")
        service = page[page.index(".SH THE REALM ITSELF") :]
        for name, _, _, text in Options.optParameters:
            self.assertRegex(service, rf"--{name}fR=.+\n{re.escape(str(text))}\n")
        for name in ("listen", "version"):
            self.assertIn(f"--{name}", service)

    def test_every_command_of_the_operator_is_explained(self) -> None:
        page = self.make.abst_realm_8().replace("\\", "")
        for name in operator_program.COMMANDS:
            self.assertIn(f"\n.SS fBabst-realm {name}fR", page)
        self.assertIn("abst-realm invite --note", page)

    def test_no_part_of_a_page_says_what_another_does(self) -> None:
        for page in (self.make.abst_1(), self.make.abst_realm_8(), self.make.realm_toml_5()):
            titles = re.findall(r"^\.SH (.+)$", page, re.MULTILINE)
            self.assertEqual(sorted(set(titles)), sorted(titles))


class CompletionTests(TestCase):
    def complete(self, *words: str) -> list[str]:
        line = " ".join(words)
        environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        if words[0] == "abst":
            said = run("-m", "abst.cli", _ABST_COMPLETE="bash_complete", **environment)
        else:
            said = run("-m", "abst.operator", _ABST_REALM_COMPLETE="bash_complete", **environment)
        return [entry.partition(",")[2] for entry in said.splitlines()]

    def test_the_scripts_for_bash_ask_the_programs(self) -> None:
        script = run("-m", "abst.cli", _ABST_COMPLETE="bash_source")
        self.assertIn("_ABST_COMPLETE=bash_complete", script)
        script = run("-m", "abst.operator", _ABST_REALM_COMPLETE="bash_source")
        self.assertIn("_ABST_REALM_COMPLETE=bash_complete", script)

    def test_commands_and_options_are_completed(self) -> None:
        self.assertEqual(["realm"], self.complete("abst", "rea"))
        self.assertEqual(["add"], self.complete("abst", "realm", "ad"))
        self.assertEqual(["--foreground"], self.complete("abst", "up", "--f"))
        self.assertEqual(["invite"], self.complete("abst-realm", "invite"))
        self.assertEqual(["--uses"], self.complete("abst-realm", "invite", "--u"))


class VersionTests(TestCase):
    def test_the_packages_are_of_this_version(self) -> None:
        changelog = (ROOT / "debian" / "changelog").read_text("utf-8")
        match = re.match(r"abst \(([^)]+)\) ", changelog)
        assert match is not None
        self.assertEqual(abst.__version__, match[1])
