"""Groups, values and networks between real processes: a realm, agents, and the commands."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.trial.unittest import TestCase

from abst.address import RealmAddress
from abst.cli import INTERRUPTED_STATUS
from tests.cli.fake_agent import run_abst
from tests.integration.command_line import (
    SECONDS,
    CommandLine,
    RealmProcess,
    end,
    read_line,
    temporary_folder,
    wait_until,
)


class Device:
    """A device whose commands run in this process, since a process takes long to start.

    Attributes:
        commands: its home, its agent, and commands as processes of their own.
        device_id: who it is.
    """

    def __init__(self, commands: CommandLine, name: str) -> None:
        self.commands = commands
        self.name = name
        _, out, _ = self.run("init", "--name", name)
        self.device_id = out.strip()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command; return its status, its stdout and its stderr."""
        return run_abst("--home", str(self.commands.home), *arguments)

    def ok(self, *arguments: str) -> str:
        """Run a command that has to succeed; return its stdout."""
        status, out, said = self.run(*arguments)
        if status != 0:
            raise AssertionError(f"{self.name}: {arguments}: status {status}: {said}")
        return out

    def json(self, *arguments: str) -> Any:
        """Return the document that a command prints."""
        return json.loads(self.ok(*arguments, "--json"))

    def until(self, holds: Callable[[Any], object], *arguments: str) -> Any:
        """Run a command until what it prints is as it has to be; return that."""

        def look() -> Any:
            status, out, _ = self.run(*arguments, "--json")
            return [json.loads(out)] if status == 0 and holds(json.loads(out)) else None

        return wait_until(look, f"{self.name}: {arguments}")[0]


class Stage:
    """A realm, and agents of which each trusts alice.

    Attributes:
        realm: the realm.
        devices: all devices; the agent of the last one does not run.
    """

    def __init__(self) -> None:
        self.folder = temporary_folder()
        atexit.register(self._clear)
        self.realm = RealmProcess(self.folder / "realm")
        names = ("alice", "bob", "carol", "dave")
        self.devices = [Device(CommandLine(self.folder / name), name) for name in names]
        with ThreadPoolExecutor() as pool:
            list(pool.map(CommandLine.up, [device.commands for device in self.devices]))
        for device in self.devices:
            device.ok("realm", "add", self.realm.address)
        alice, *others = self.devices
        for other in others:
            other.ok("trust", alice.device_id, "--name", "alice")
            alice.ok("trust", other.device_id, "--name", other.name)
            other.ok("ping", "alice", "--count", "1")
        self.devices[-1].commands.kill()

    def restart_realm(self) -> None:
        """Let the realm be there again, at the same address."""
        port = RealmAddress.parse(self.realm.address).port
        self.realm = RealmProcess(self.folder / "realm", port)

    def logs(self) -> str:
        """Return what the agents have logged."""
        return "".join(
            device.commands.home.with_suffix(".log").read_text() for device in self.devices
        )

    def _clear(self) -> None:
        for device in getattr(self, "devices", ()):
            device.commands.kill()
        if hasattr(self, "realm"):
            self.realm.stop()
        shutil.rmtree(self.folder)


@functools.cache
def stage() -> Stage:
    """Return the stage that these tests share."""
    return Stage()


class GroupsTests(TestCase):
    """What people do with groups, values and networks."""

    def setUp(self) -> None:
        self.stage = stage()
        self.alice, self.bob, self.carol, self.dave = self.stage.devices

    def tearDown(self) -> None:
        self.assertNotIn("Traceback", self.stage.logs())

    def start(self, device: Device, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that prints lines of JSON."""
        process = device.commands.start(*arguments)
        self.addCleanup(end, process)
        return process

    def line(self, process: subprocess.Popen[str], *keys: str) -> tuple[Any, ...]:
        """Return these facts of the next line that a process prints."""
        event = json.loads(read_line(process))
        return tuple(event.get(key) for key in keys)

    def assert_fails(self, done: tuple[int, str, str], *words: str) -> None:
        """Assert that a command failed with one line that has these words."""
        status, out, said = done
        self.assertEqual((1, "", 1), (status, out, len(said.splitlines())), said)
        for word in words:
            self.assertIn(word, said)

    def test_a_group_from_its_beginning_to_a_removal(self) -> None:
        alice, bob, carol = self.alice, self.bob, self.carol
        alice.ok("group", "create", "family")
        self.assertEqual("bob is in family now\n", alice.ok("group", "give", "family", "bob"))
        # Carol wants to be asked, and alice does not wait for it: that takes nothing back.
        carol.ok("group", "policy", "ask")
        giving = self.start(alice, "group", "give", "family", "carol")
        carol.until(lambda told: told["offers"], "group", "offers")
        giving.send_signal(signal.SIGINT)
        self.assertEqual(INTERRUPTED_STATUS, giving.wait(SECONDS))
        carol.ok("group", "accept", "family")
        alice.until(lambda told: told["here_count"] == 2, "group", "members", "family")
        # Messages.
        listening = self.start(bob, "group", "listen", "family", "--json")
        self.assertEqual(("listening",), self.line(listening, "kind"))
        sent = alice.ok("group", "send", "family", "supper ☀")
        self.assertEqual("sent to family: 2 other members here\n", sent)
        said = self.line(listening, "kind", "peer", "text")
        self.assertEqual(("group message", "alice", "supper ☀"), said)
        # Values.
        alice.ok("kv", "family", "set", "light", "on")
        watching = self.start(carol, "kv", "family", "watch", "--initial")
        self.assertEqual(("put", "light", "on", "alice"), self.line(watching, *CHANGE))
        self.assertEqual(("on", 1), self.value(bob, "light"))
        conflict = bob.run("kv", "family", "set", "light", "off", "--if-revision", "7")
        self.assert_fails(conflict, "'light' is at revision 1")
        bob.ok("kv", "family", "set", "code", "4711", "--expires", "1s")
        self.assertEqual(("put", "code", "4711", "bob"), self.line(watching, *CHANGE))
        self.assertEqual(("expired", "code", None, None), self.line(watching, *CHANGE))
        # The realm is gone, and one agent is another one.
        self.stage.realm.stop()
        self.assertEqual(("on", 1), self.value(bob, "light", says="is not connected"))
        self.assert_fails(alice.run("kv", "family", "set", "light", "off"), "realm")
        self.assert_fails(alice.run("group", "send", "family", "hello?"), "not sent")
        bob.commands.kill()
        bob.commands.up()
        self.assertEqual(("on", 1), self.value(bob, "light", says="this is what was checked last"))
        self.stage.restart_realm()
        setting = ("kv", "family", "set", "light", "off", "--if-revision", "1")
        alice.until(lambda told: told["revision"] == 4, *setting)
        self.assertEqual(("put", "light", "off", "alice"), self.line(watching, *CHANGE))
        bob.until(lambda told: told["joined"], "group", "members", "family")
        self.assertEqual(("off", 4), self.value(bob, "light"))
        # Carol is removed.
        removed = alice.json("group", "remove", "family", "carol")
        self.assertEqual((True, 1), (removed["moved"], removed["epoch"]))
        alice.ok("kv", "family", "set", "secret", "x")
        bob.until(lambda told: told["epoch"] == 1 and told["joined"], "group", "members", "family")
        self.assertEqual("x", self.value(bob, "secret")[0])
        self.assertIsNone(watching.poll())
        self.assert_fails(carol.run("kv", "family", "get", "secret"), "epoch 1")
        self.assertIn("not joined", carol.ok("group", "list"))

    def test_a_network_introduces_all_to_each_other(self) -> None:
        alice, bob, carol, dave = self.alice, self.bob, self.carol, self.dave
        carol.ok("group", "policy", "accept")
        alice.ok("network", "create", "home")
        for name in ("bob", "carol"):
            self.assertEqual(f"{name} is in home now\n", alice.ok("network", "add", "home", name))
        bob.until(lambda told: knows(told, "alice", "carol"), "peers")
        # Dave is added while it is away, and comes while bob is.
        bob.commands.kill()
        adding = self.start(alice, "network", "add", "home", "dave")
        alice.until(lambda told: len(told["members"]) == 4, "network", "members", "home")
        dave.commands.up()
        self.assertEqual(0, adding.wait(SECONDS))
        dave.until(lambda told: knows(told, "alice", "bob", "carol"), "peers")
        bob.commands.up()
        told = bob.until(lambda told: knows(told, "alice", "carol", "dave"), "peers")
        found = {peer["name"]: peer for peer in told["peers"]}
        self.assertEqual(["home"], [one["network"] for one in found["dave"]["networks"]])
        shared = (found["alice"]["introduced"], found["dave"]["introduced"])
        self.assertEqual((False, True), shared)
        self.assertIn("in home, known by that alone", bob.ok("peers"))
        bob.ok("ping", "dave", "--count", "1")
        # It is a group as well.
        dave.ok("kv", "home", "set", "door", "open")
        bob.until(lambda told: told["joined"], "group", "members", "home")
        self.assertEqual("open", self.value(bob, "door", group="home")[0])
        self.assertIn("networks 1", bob.ok("status"))
        # What is there is told as it is read: this is more than may wait for a watcher at once.
        large = self.stage.folder / "large"
        large.write_bytes(b"\0" * 65536)
        for number in range(20):
            dave.ok("kv", "home", "set", f"large/{number:02}", "--file", str(large))
        watching = self.start(bob, "kv", "home", "watch", "large/", "--initial")
        names = [self.line(watching, "name")[0] for _ in range(20)]
        self.assertEqual([f"large/{number:02}" for number in range(20)], names)
        # A group of somebody who was only introduced is not accepted without a word.
        dave.ok("group", "create", "club")
        offering = self.start(dave, "group", "give", "club", "bob")
        bob.until(lambda told: [o["group"] for o in told["offers"]] == ["club"], "group", "offers")
        bob.ok("group", "refuse", "club")
        self.assertEqual(1, offering.wait(SECONDS))
        # Removed by one, forgotten by all.
        alice.ok("network", "remove", "home", "dave")
        for device in (alice, bob, carol):
            device.until(lambda told: not knows(told, "dave"), "peers")
        self.assert_fails(bob.run("ping", "dave", "--count", "1"), "no peer is called 'dave'")
        self.assertEqual(["open"], [self.value(bob, "door", group="home")[0]])

    def value(
        self, device: Device, name: str, *, group: str = "family", says: str = ""
    ) -> tuple[str, int]:
        """Return a value and its revision; on stderr stands nothing, or a line with these words."""
        status, out, said = device.run("kv", group, "get", name, "--json")
        self.assertEqual((0, 1 if says else 0), (status, len(said.splitlines())), said)
        self.assertIn(says, said)
        told = json.loads(out)
        return told["value"], told["revision"]


CHANGE = ("change", "name", "value", "writer")


def knows(told: dict[str, Any], *names: str) -> bool:
    """Tell whether all of these are among the peers that a device lists."""
    return set(names) <= {peer["name"] for peer in told["peers"]}
