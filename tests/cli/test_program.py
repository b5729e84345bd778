"""The program as a whole: its commands, its help, and how it ends."""

import ast
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from twisted.trial.unittest import TestCase

import abst
from abst import device
from abst.agent.home import Home
from abst.cli import program
from abst.cli.example import WithExample
from abst.cli.program import COMMANDS
from abst.cli.send import Progress
from tests.cli.fake_agent import FakeAgent, make_home, run_abst

ROOT = Path(__file__).parent.parent.parent


class Mistake(Exception):
    """What nobody has thought of."""


class ProgramTests(TestCase):
    """Commands, help and exit status."""

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

    def test_every_command_that_the_design_names_is_there(self) -> None:
        names = "init id up down status realm lan pair trust peers forget ping message outbox"
        names += " listen send inbox network group kv expose forward demo"
        self.assertEqual(set(names.split()), set(COMMANDS))

    def test_every_command_has_one_sentence_and_an_example(self) -> None:
        for words, command in self.all_commands().items():
            assert isinstance(command, WithExample), words
            assert command.help is not None
            first = command.help.split("\n\n")[0]
            self.assertTrue(first.endswith("."), first)
            self.assertEqual(1, first.count(". ") + 1, first)
            line = command.example.splitlines()[-1 if words else 0]
            if words[:1] == ("kv",):
                line = line.replace("abst kv family", "abst kv")  # the group comes first
            self.assertIn(" ".join(("abst", *words)), line)
            status, out, said = run_abst(*words, "--help")
            self.assertEqual((0, ""), (status, said))
            self.assertIn("Example:\n  ", out)

    def test_every_example_is_right_usage(self) -> None:
        for words, command in self.all_commands().items():
            assert isinstance(command, WithExample)
            for line in command.example.splitlines():
                usage = line[line.index("abst ") :]
                name = usage.split()[1]
                self.assertIn(name, COMMANDS, words)

    def test_the_overview_cuts_no_sentence_short(self) -> None:
        _, out, _ = run_abst("--help")
        self.assertEqual(1, out.count("...\n"), out)  # the one of the usage
        for name in COMMANDS:
            self.assertIn(f"\n  {name} ", out)

    def test_no_command_at_all_is_wrong_usage(self) -> None:
        status, out, said = run_abst()
        self.assertEqual((2, ""), (status, out))
        self.assertIn("Usage: abst", said)

    def test_the_version(self) -> None:
        self.assertEqual((0, f"abst {abst.__version__}\n", ""), run_abst("--version"))

    def test_a_mistake_shows_one_line(self) -> None:
        status, said = self.fail_with(Mistake("with\na \x1bline"))
        self.assertEqual(1, status)
        self.assertRegex(
            said, r"\Aabst: this is a mistake in ABST: Mistake: with a \\x1bline.*\n\Z"
        )

    def test_the_systems_refusals_show_one_line(self) -> None:
        status, said = self.fail_with(PermissionError(13, "Permission denied", "/some/file"))
        self.assertEqual((1, "abst: /some/file: Permission denied\n"), (status, said))

    def test_an_interruption_is_quiet(self) -> None:
        status, said = self.fail_with(KeyboardInterrupt())
        self.assertEqual((130, ""), (status, said.strip()))

    def fail_with(self, problem: BaseException) -> tuple[int, str]:
        """Run a command that raises this."""

        @click.command()
        def command() -> None:
            raise problem

        self.patch(program, "program", command)
        status, _, said = run_abst()
        return status, said


class StartTests(TestCase):
    """A command starts fast."""

    SLOW = frozenset({"twisted", "OpenSSL", "cryptography", "zope", "msgpack", "segno", "tqdm"})

    def loaded_by(self, script: str, *arguments: str, **changes: str) -> tuple[set[str], str]:
        """Run lines of Python; return the packages that they loaded, and what they printed."""
        # A package may put its namespace among the modules before anything is imported.
        whole = f"import sys\nbefore = set(sys.modules)\n{script}\n"
        whole += "print(*(set(sys.modules) - before), file=sys.stderr)"
        done = subprocess.run(
            [sys.executable, "-c", whole, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **changes},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return {name.partition(".")[0] for name in done.stderr.split()}, done.stdout

    def test_no_module_fetches_what_is_slow(self) -> None:
        names = [path.stem for path in (ROOT / "abst" / "cli").glob("*.py")]
        modules = [f"abst.cli.{n}" for n in names if n not in ("__init__", "__main__")]
        script = "import importlib\nfor n in sys.argv[1:]: importlib.import_module(n)"
        loaded, _ = self.loaded_by(script, *modules)
        self.assertEqual(set(), self.SLOW & loaded)

    def test_completing_a_code_fetches_nothing_slow(self) -> None:
        """Whoever presses TAB waits for it."""
        loaded, out = self.loaded_by(
            "from abst.cli import main\nmain()",
            _ABST_COMPLETE="zsh_complete",
            COMP_WORDS="abst pair 7-ot",
            COMP_CWORD="2",
        )
        self.assertIn("7-otter\n", out)
        self.assertIn("abst", loaded)
        self.assertEqual(set(), self.SLOW & loaded)

    def test_showing_the_id_fetches_no_network(self) -> None:
        folder = Path(self.mktemp()).absolute()
        Home(folder).create("laptop")
        loaded, out = self.loaded_by(
            "from abst.cli import main\nmain(sys.argv[1:])", "--home", str(folder), "id"
        )
        self.assertRegex(out, r"\A[0-9a-f-]{36}\n\Z")
        self.assertEqual(set(), {"twisted", "segno", "tqdm"} & loaded)

    def test_the_library_still_offers_all_its_names(self) -> None:
        """It fetches them one by one, which is what makes the above fast."""
        for name in device.__all__:
            self.assertEqual(name, getattr(device, name).__name__)
        self.assertEqual(set(), set(device.__all__) - set(dir(device)))
        self.assertRaises(AttributeError, getattr, device, "Realm")

    def test_no_module_imports_the_agent_or_the_realm_at_its_top(self) -> None:
        for path in (ROOT / "abst" / "cli").glob("*.py"):
            for node in ast.parse(path.read_bytes()).body:
                if isinstance(node, ast.ImportFrom):
                    self.assertNotRegex(node.module or "", r"\Aabst\.(agent|realm|device)(\.|\Z)")


class CommandTests(TestCase):
    """Commands against an agent that says what it is told to."""

    def abst(self, answers: list[Any], *arguments: str) -> tuple[int, str, str]:
        """Run a command whose agent answers like this."""
        agent = FakeAgent(lambda request: answers)
        try:
            return run_abst("--home", str(agent.home), *arguments)
        finally:
            agent.stop()
            shutil.rmtree(agent.home)

    def test_an_error_of_the_agent_is_one_safe_line(self) -> None:
        status, out, said = self.abst([{"error": "two\nlines \x1b[2J"}], "peers")
        self.assertEqual((1, "", "abst: two lines \\x1b[2J\n"), (status, out, said))

    def test_names_from_elsewhere_are_safe(self) -> None:
        bad = "\x1b[2Jbob\n"
        peer = {"peer": bad, "device_id": "6fa1", "name": bad, "path": bad, "key_pinned": True}
        named = {"peer": bad, "device_id": "6fa1", "name": bad}
        for answer, command in (
            ({"peers": [peer]}, ("peers",)),
            (named, ("forget", "bob")),
            ({**named, "delivered": True}, ("message", "bob", "x")),
            ({"realms": [{"realm": bad, "up": False, "problem": bad}]}, ("realm", "list")),
            ({"realm": bad}, ("realm", "remove", "x")),
            (
                {
                    "device_id": "6fa1",
                    "name": bad,
                    "home": "/h",
                    "version": bad,
                    "uptime_seconds": 1.5,
                    "peers": 1,
                    "sessions": [{"peer": bad, "path": bad}],
                    "lan": {"on": True, "addresses": [bad], "problem": bad},
                    "realms": [{"realm": "x", "up": True, "problem": None}],
                },
                ("status",),
            ),
        ):
            status, out, said = self.abst([{"result": answer}], *command)
            self.assertEqual((0, ""), (status, said), command)
            self.assertNotIn("\x1b", out)
            self.assertIn(r"\x1b[2Jbob\n", out)

    def test_peers_are_listed_with_where_they_listen(self) -> None:
        known = {"peer": "bob", "device_id": "6fa1", "name": "bob", "path": None}
        addresses = {"addresses": ["a:1"], "told_addresses": ["a:1", "b:2"]}
        peer = {**known, **addresses, "key_pinned": True}
        status, out, _ = self.abst([{"result": {"peers": [peer]}}], "peers")
        lines = ["6fa1  bob  no session now", "    at a:1, added here", "    at b:2, as it says"]
        self.assertEqual((0, lines), (status, out.splitlines()))

    def test_a_ping_without_an_answer_in_the_end(self) -> None:
        event = {"peer": "bob", "sequence": 1, "rtt_seconds": 0.0012, "path": None}
        answers = [{"event": event}, {"error": "bob has not answered"}]
        status, out, said = self.abst(answers, "ping", "bob")
        self.assertEqual(1, status)
        self.assertEqual("1: bob answered in 1.2 ms\n", out)
        self.assertEqual("abst: bob has not answered\n", said)

    def test_which_way_is_taken_and_why(self) -> None:
        relayed = {"path": "realm a:1", "path_kind": "realm", "path_reason": "there is no other"}
        direct = {"path": "direct b:2", "path_kind": "direct", "path_reason": "it is faster"}
        answers = [
            {"event": {"peer": "bob", "sequence": number, "rtt_seconds": 0.001, **way}}
            for number, way in enumerate((relayed, relayed, direct), 1)
        ]
        sums = {"min_seconds": 0.001, "mean_seconds": 0.001, "max_seconds": 0.001}
        total = {"result": {"sent": 3, "received": 3, **sums}}
        _, out, _ = self.abst([*answers, total], "ping", "bob")
        lines = [line.partition(" ms")[2] for line in out.splitlines()[:3]]
        self.assertEqual(
            [
                " over realm a:1 (there is no other)",
                " over realm a:1",
                " over direct b:2 (it is faster)",
            ],
            lines,
        )
        session = {"peer": "bob", "device_id": "6fa1"}
        resting = {**session, "path": None, "path_kind": "none", "path_reason": None}
        waiting = {**resting, "waiting": True}
        quick = {**session, **direct, "path_rtt_seconds": 0.0021}
        status = {"name": "a", "device_id": "6fa1", "home": "/h", "version": "1", "peers": 2}
        status |= {
            "uptime_seconds": 1.5,
            "lan": {"setting": "on", "on": True, "addresses": ["192.0.2.7:4000"], "problem": None},
            "realms": [],
            "sessions": [waiting, resting, quick, session | relayed],
        }
        _, out, _ = self.abst([{"result": status}], "status")
        self.assertEqual(
            [
                "bob, waiting for a path",
                "bob, resting until there is something to say",
                "bob, over direct b:2, 2.1 ms (it is faster)",
                "bob, over realm a:1 (there is no other)",
            ],
            [line[9:] for line in out.splitlines() if line.startswith("session")],
        )

    def test_a_send_that_has_to_wait(self) -> None:
        bad = "\x1b[2Jbob"
        on = {"peer": bad, "file": "x", "waiting": False}
        off = {"peer": bad, "file": "x", "waiting": True, "reason": f"{bad} is\naway"}
        answers = [{"event": off}, {"event": on}, {"result": {"peer": bad, "files": []}}]
        status, out, said = self.abst(answers, "send", "bob", __file__)
        self.assertEqual((0, ""), (status, out))
        self.assertEqual(
            [
                r"waiting: \x1b[2Jbob is away; it goes on by itself when \x1b[2Jbob can be reached"
                "; Ctrl-C cancels",
                r"going on: \x1b[2Jbob is there again",
            ],
            said.splitlines(),
        )
        status, out, said = self.abst(answers, "send", "bob", "--json", __file__)
        self.assertEqual((0, ""), (status, said))
        self.assertEqual([off, on], [json.loads(line) for line in out.splitlines()[:2]])

    def test_a_bar_shows_that_it_stands_still(self) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            progress = Progress()
            progress.tell("waiting: early", is_waiting=True)
            progress.update({"file": "x", "total_sent_bytes": 50, "total_bytes": 100})
            progress.tell("waiting: bob is away", is_waiting=True)
            progress.tell("going on", is_waiting=False)
            progress.update({"file": "y", "total_sent_bytes": 100, "total_bytes": 100})
            progress.close()
        shown = said.getvalue()
        for words in (
            "x:  50%",
            "y: 100%",
            "waiting: early\n",
            "waiting: bob is away\n",
            ", waiting]",
            "going on\n",
        ):
            self.assertIn(words, shown)
        self.assertNotIn("waiting", shown.rpartition("going on")[2])

    def test_listen_ends_after_as_many_as_were_asked_for(self) -> None:
        message = {"kind": "message", "peer": "bob", "text": "x", "received_at": "now"}
        answers = [{"event": e} for e in ({"kind": "listening"}, message, message, message)]
        status, out, said = self.abst(answers, "listen", "--count", "2")
        self.assertEqual((0, "now  bob: x\n" * 2), (status, out))
        self.assertIn("listening", said)

    def test_wrong_usage_asks_no_agent(self) -> None:
        home = make_home()
        self.addCleanup(shutil.rmtree, home)
        for command in (("ping",), ("trust", "x"), ("realm", "add", "x"), ("realm",), ("x",)):
            status, out, said = run_abst("--home", str(home), *command)
            self.assertEqual((2, ""), (status, out))
            self.assertRegex(said, r"\Aabst: [^\n]+ \('abst[a-z ]* --help' says how\)\n\Z")
