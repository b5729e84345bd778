"""The operator's program as a whole: its commands, its help, and how it ends."""

from __future__ import annotations

import click
from twisted.trial.unittest import TestCase

import abst
from abst.cli.example import WithExample
from abst.operator import program
from abst.operator.program import COMMANDS
from tests.operator.fake_realm import OperatorTestCase, run_operator


class ProgramTests(TestCase):
    def all_commands(self) -> dict[tuple[str, ...], click.Command]:
        """Return every command by its words, subcommands included."""
        found: dict[tuple[str, ...], click.Command] = {}
        pending: list[tuple[tuple[str, ...], click.Command]] = [((), program.program)]
        while pending:
            words, command = pending.pop()
            found[words] = command
            if isinstance(command, click.Group):
                context = click.Context(command)
                for name in command.list_commands(context):
                    child = command.get_command(context, name)
                    assert child is not None
                    pending.append(((*words, name), child))
        return found

    def test_every_command_has_one_sentence_and_an_example(self) -> None:
        for words, command in self.all_commands().items():
            assert isinstance(command, WithExample), words
            assert command.help is not None
            first = command.help.split("\n\n")[0]
            self.assertTrue(first.endswith("."), first)
            self.assertEqual(1, first.count(". ") + 1, first)
            for line in command.example.splitlines():
                self.assertIn(" ".join(("abst-realm", *words)), line)
                self.assertIn(line.split("abst-realm ")[1].split()[0], COMMANDS)
            status, out, said = run_operator(*words, "--help")
            self.assertEqual((0, ""), (status, said))
            self.assertIn("Example:\n  ", out)

    def test_every_command_that_tells_something_tells_it_as_json_too(self) -> None:
        for words, command in self.all_commands().items():
            if words:
                self.assertIn("--json", [name for item in command.params for name in item.opts])

    def test_what_a_user_may_not_read_is_no_wrong_usage(self) -> None:
        """A state folder is for its owner alone: whoever else asks is told so by the command."""
        for words, command in self.all_commands().items():
            for item in command.params:
                if isinstance(item.type, click.Path):
                    self.assertFalse(item.type.readable, (words, item.name))

    def test_the_overview_cuts_no_sentence_short(self) -> None:
        _, out, _ = run_operator("--help")
        self.assertEqual(1, out.count("...\n"), out)  # the one of the usage
        for name in COMMANDS:
            self.assertIn(f"\n  {name} ", out)

    def test_the_version(self) -> None:
        self.assertEqual((0, f"abst-realm {abst.__version__}\n", ""), run_operator("--version"))

    def test_no_command_at_all_is_wrong_usage(self) -> None:
        status, out, said = run_operator()
        self.assertEqual((2, ""), (status, out))
        self.assertIn("Usage: abst-realm", said)


class EndTests(OperatorTestCase):
    """How a command ends that cannot be done."""

    def test_no_realm_is_running(self) -> None:
        status, out, said = self.operator("stats")
        self.assertEqual((1, ""), (status, out))
        self.assertEqual(1, said.count("\n"))
        self.assertIn(f"abst-realm: no realm is running at {self.state}: start it with", said)

    def test_a_refusal_is_one_safe_line(self) -> None:
        self.answer(lambda request: [{"error": "not\nnow \x1b[2J"}])
        status, out, said = self.operator("stats")
        self.assertEqual((1, ""), (status, out))
        self.assertEqual("abst-realm: not now \\x1b[2J\n", said)

    def test_wrong_usage_asks_no_realm(self) -> None:
        self.answer(lambda request: [{"result": {}}])
        for words in (
            ("invite", "--expires", "soon"),
            ("invite", "--expires", "0d"),
            ("invite", "--expires", "99999w"),
            ("invite", "--uses", "-1"),
            ("revoke",),
            ("stats", "--count", "3"),
            ("invitations", "withdraw"),
            ("backup",),
            ("unknown",),
        ):
            status, out, said = self.operator(*words)
            self.assertEqual((2, ""), (status, out), words)
            self.assertEqual(1, said.count("\n"), said)
        self.assertEqual([], self.requests)
