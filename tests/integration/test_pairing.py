"""Pairing and the outbox through the command line, between real processes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.integration.command_line import (
    ENVIRONMENT,
    SECONDS,
    CommandLine,
    CommandLineTestCase,
    RealmProcess,
    end,
    read_line,
    wait_until,
)


class PairingTestCase(CommandLineTestCase):
    """Two devices at one realm that do not know each other."""

    def setUp(self) -> None:
        super().setUp()
        self.realm = RealmProcess(self.folder / "realm")
        self.addCleanup(self.realm.stop)
        self.laptop, self.phone = self.device("laptop"), self.device("phone")
        for device in (self.laptop, self.phone):
            device.up()
            device.ok("realm", "add", self.realm.address)

    def pairing(self, device: CommandLine, *arguments: str) -> subprocess.Popen[str]:
        """Start ``abst pair``, whose questions this test answers."""
        process = subprocess.Popen(
            device.command("pair", "--json", *arguments),
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(end, process)
        return process

    def event(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the next thing that a pairing says."""
        found: dict[str, Any] = json.loads(read_line(process))
        return found

    def say(self, process: subprocess.Popen[str], word: str) -> None:
        """Answer a question."""
        assert process.stdin is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()

    def assert_paired(self) -> None:
        """Assert that both know each other by name, and talk."""
        self.assertEqual(["phone"], [peer["peer"] for peer in self.laptop.json("peers")["peers"]])
        self.assertEqual(["laptop"], [peer["peer"] for peer in self.phone.json("peers")["peers"]])
        self.assertTrue(self.laptop.json("message", "phone", "hello")["delivered"])

    def assert_strangers(self) -> None:
        """Assert that neither has stored anything."""
        for device in (self.laptop, self.phone):
            self.assertEqual([], device.json("peers")["peers"])


class PairTests(PairingTestCase):
    """The three ways."""

    def test_by_code(self) -> None:
        waiting = self.pairing(self.laptop)
        code = self.event(waiting)["code"]
        self.assertRegex(code, r"^[1-9][0-9]?-[a-z]+-[a-z]+$")
        self.assertIn("paired with laptop", self.phone.ok("pair", code.upper().replace("-", " ")))
        self.assertEqual("phone", self.event(waiting)["peer"])
        self.assertEqual(0, waiting.wait(SECONDS))
        self.assert_paired()
        for home in (self.laptop.home, self.phone.home):
            settings = json.loads((home / "settings.json").read_text())
            self.assertEqual([None], [peer["pending_key"] for peer in settings["peers"]])

    def test_a_wrong_code_is_one_try(self) -> None:
        waiting = self.pairing(self.laptop)
        code = self.event(waiting)["code"]
        number, first, second = code.split("-")
        other = "otter" if first != "otter" else "pillow"
        wrong = self.phone.run("pair", f"{number}-{other}-{second}")
        if "no word" in wrong.stderr:
            self.fail(f"the test needs a word of the list: {wrong.stderr}")
        self.assert_refused(wrong, "not the one", "new code")
        self.assertEqual(1, waiting.wait(SECONDS))
        self.assert_refused(self.phone.run("pair", code), "no device waits", "new code")
        self.assert_strangers()

    def test_by_link(self) -> None:
        waiting = self.pairing(self.laptop, "--link")
        link = self.event(waiting)["link"]
        self.phone.ok("realm", "remove", "127.0.0.1")
        self.assertIn("paired with laptop", self.phone.ok("pair", link))
        self.assertEqual(0, waiting.wait(SECONDS))
        self.assert_paired()
        self.assertEqual(1, len(self.phone.json("realm", "list")["realms"]), "the link's realm")

    def test_by_comparing(self) -> None:
        waiting = self.pairing(self.laptop)
        self.event(waiting)
        asking = self.pairing(self.phone, self.laptop.ok("id").strip())
        words = [self.event(process)["words"] for process in (asking, waiting)]
        self.assertEqual(words[0], words[1])
        self.assertEqual(5, len(words[0].split()))
        for process in (asking, waiting):
            self.say(process, "yes")
        self.assertEqual("laptop", self.event(asking)["peer"])
        self.assertEqual("phone", self.event(waiting)["peer"])
        self.assert_paired()

    def test_one_no_is_enough(self) -> None:
        waiting = self.pairing(self.laptop)
        self.event(waiting)
        asking = self.pairing(self.phone, self.laptop.ok("id").strip())
        for process, word in ((asking, "yes"), (waiting, "no")):
            self.event(process)
            self.say(process, word)
        for process in (asking, waiting):
            self.assertEqual(1, process.wait(SECONDS))
        self.assert_strangers()

    def test_nothing_is_left_of_a_pairing_that_is_interrupted(self) -> None:
        waiting = self.pairing(self.laptop)
        code = self.event(waiting)["code"]
        self.interrupt(waiting)
        self.assert_refused(self.phone.run("pair", code), "no device waits")
        self.assert_strangers()

    def test_forgetting_is_noticed_by_the_other_one(self) -> None:
        waiting = self.pairing(self.laptop)
        self.phone.ok("pair", self.event(waiting)["code"])
        self.assertEqual(0, waiting.wait(SECONDS))
        self.laptop.ok("forget", "phone")
        self.assert_refused(
            self.phone.run("message", "laptop", "hello?"), "laptop has forgotten", "pair again"
        )


class OutboxTests(PairingTestCase):
    """A message to a device that is away waits, and goes when it is back."""

    def setUp(self) -> None:
        super().setUp()
        self.laptop.ok("trust", self.phone.ok("id").strip(), "--name", "phone")
        self.phone.ok("trust", self.laptop.ok("id").strip(), "--name", "laptop")

    def test_messages_wait_over_restarts_of_both(self) -> None:
        self.phone.kill()
        for number in range(3):
            sent = self.laptop.json("message", "phone", f"message {number}")
            self.assertEqual((False, True), (sent["delivered"], sent["waiting"]))
        self.laptop.kill()
        self.laptop.up()
        waiting = self.laptop.json("outbox")["items"]
        self.assertEqual(["message 0", "message 1", "message 2"], [i["text"] for i in waiting])
        self.phone.up()
        wait_until(lambda: not self.laptop.json("outbox")["items"], "all of them went")
        heard = [item["text"] for item in self.phone.json("inbox")["items"]]
        self.assertEqual(["message 0", "message 1", "message 2"], heard)

    def test_a_message_is_taken_back(self) -> None:
        self.phone.kill()
        for text in ("stays", "goes"):
            self.laptop.ok("message", "phone", text)
        self.assertIn("waiting: goes", self.laptop.ok("outbox"))
        number = self.laptop.json("outbox")["items"][1]["number"]
        self.laptop.ok("outbox", "cancel", "phone", str(number))
        self.assert_refused(
            self.laptop.run("outbox", "cancel", "phone", str(number)), "abst outbox"
        )
        self.phone.up()
        wait_until(lambda: self.phone.json("inbox")["items"], "the other one has come")
        self.laptop.ok("message", "phone", "after")
        heard = [item["text"] for item in self.phone.json("inbox")["items"]]
        self.assertEqual(["stays", "after"], heard)
