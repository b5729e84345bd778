"""The documents: every relative link in a Markdown file leads somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import TestCase

ROOT = Path(__file__).parent.parent
NOT_OURS = {"build", "dist"}

_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[`~]*\s*?$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_INLINE = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'(][^)]*)?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)
_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def documents(root: Path) -> list[Path]:
    """Return the Markdown files under `root`, without hidden folders and what tools leave."""
    return sorted(
        path
        for path in root.glob("**/*.md")
        if not any(
            part.startswith((".", "_")) or part in NOT_OURS for part in path.relative_to(root).parts
        )
    )


def links(text: str) -> Iterator[str]:
    """Return the targets of the links in `text`; code is no link."""
    prose = _CODE.sub("", _FENCE.sub("", text))
    yield from _INLINE.findall(prose)
    yield from _REFERENCE.findall(prose)


def anchors(text: str) -> set[str]:
    """Return the anchors that a renderer makes of the headings in `text`."""
    prose = _FENCE.sub("", text)
    found = set(_ANCHOR.findall(prose))
    for heading in _HEADING.findall(prose):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


def broken_links(root: Path) -> list[str]:
    """Return a line for every relative link under `root` that leads nowhere."""
    broken = []
    for document in documents(root):
        text = document.read_text(encoding="utf-8")
        for link in links(text):
            if _ELSEWHERE.match(link):
                continue
            name, _, anchor = link.partition("#")
            target = document.parent / name if name else document
            if not target.exists():
                broken.append(f"{document.relative_to(root)}: {link}: no such file")
            elif not target.resolve().is_relative_to(root.resolve()):
                broken.append(f"{document.relative_to(root)}: {link}: outside the project")
            elif (
                anchor
                and target.suffix == ".md"
                and anchor not in anchors(target.read_text(encoding="utf-8"))
            ):
                broken.append(f"{document.relative_to(root)}: {link}: no such heading")
    return broken


class DocumentsTests(TestCase):
    """The documents of this checkout."""

    def test_every_relative_link_leads_somewhere(self) -> None:
        self.assertEqual([], broken_links(ROOT))


class CheckerTests(TestCase):
    """The checker itself."""

    def broken_in(self, text: str) -> list[str]:
        """Check a project that consists of `text` and of a page with one heading."""
        root = Path(self.mktemp())
        (root / "docs").mkdir(parents=True)
        (root / "docs" / "page.md").write_text("# A page, `and` its [heading](page.md)\n")
        (root / "README.md").write_text(text)
        return broken_links(root)

    def test_broken_links_are_found(self) -> None:
        for text in (
            "[gone](gone.md)",
            "![gone](docs/gone.png)",
            "[gone](docs/page.md#gone)",
            "[gone](#gone)",
            "[gone][]\n\n[gone]: gone.md",
            'a [link that\nwraps](gone.md "with a title")',
            "[out](../)",
        ):
            self.assertEqual(1, len(self.broken_in(text)), text)

    def test_good_links_pass(self) -> None:
        for text in (
            "[page](docs/page.md) [folder](docs/) [anchor](docs/page.md#a-page-and-its-heading)",
            "# Here\n[here](#here) [web](https://example.org/gone.md) [mail](mailto:a@example.org)",
            "# Twice\n# Twice\n[second](#twice-1)",
            "`[code](gone.md)` ``[`code`](gone.md)``",
            "```sh\n[code](gone.md)\n```\n\n~~~\n[code](gone.md)\n~~~",
        ):
            self.assertEqual([], self.broken_in(text), text)
