"""News fragments have names that towncrier knows: it passes over a wrong one in silence."""

import re
import tomllib
from pathlib import Path

from twisted.trial.unittest import TestCase

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "newsfragments"
NOT_NEWS = {".gitignore", "README.md"}


def _kinds() -> list[str]:
    config = tomllib.loads((ROOT / "towncrier.toml").read_text(encoding="utf-8"))
    return [kind["directory"] for kind in config["tool"]["towncrier"]["type"]]


class NewsfragmentsTests(TestCase):
    """The fragments of this checkout."""

    def test_names_are_an_issue_or_words_and_a_kind(self) -> None:
        legal = re.compile(rf"(\d+|\+[a-z0-9][a-z0-9-]*)\.({'|'.join(_kinds())})(\.\d+)?\.md")
        names = {path.name for path in FOLDER.iterdir()} - NOT_NEWS
        self.assertEqual([], sorted(name for name in names if not legal.fullmatch(name)))

    def test_every_fragment_says_something(self) -> None:
        fragments = [path for path in FOLDER.glob("*.md") if path.name not in NOT_NEWS]
        self.assertEqual([], [p.name for p in fragments if not p.read_text("utf-8").strip()])

    def test_the_folders_page_explains_every_kind(self) -> None:
        explained = re.findall(r"^\| `(\w+)` \|", (FOLDER / "README.md").read_text("utf-8"), re.M)
        self.assertEqual(sorted(_kinds()), sorted(explained))
