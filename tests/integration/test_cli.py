"""The command line as people and scripts use it: real commands, real agents, a real realm."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import stat
import struct
import subprocess
import termios
import time
from pathlib import Path

from tests.integration.command_line import (
    ENVIRONMENT,
    SECONDS,
    CommandLine,
    CommandLineTestCase,
    end,
    processes_of,
    read_line,
    shared_stage,
    wait_until,
)

NOBODY = "6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819"
LARGE_BYTES = 4 * 1024**3
PATIENT_BYTES = 40_000_000


class HomeTests(CommandLineTestCase):
    """Making a device, and homes that are not as they have to be."""

    def test_init_makes_a_private_home_and_prints_the_id(self) -> None:
        device = CommandLine(self.folder / "deep" / "home")
        done = device.run("init", "--name", "laptop")
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertRegex(done.stdout, r"\A[0-9a-f-]{36}\n\Z")
        self.assertIn("abst realm add", done.stderr)
        self.assertEqual(0o700, stat.S_IMODE(device.home.stat().st_mode))
        self.assertEqual(0o600, stat.S_IMODE((device.home / "identity.pem").stat().st_mode))
        self.assertEqual(done.stdout, device.ok("id"))
        self.assertEqual("laptop", device.json("id")["name"])

    def test_init_never_replaces_an_identity(self) -> None:
        device = self.device("laptop")
        before = device.ok("id")
        self.assert_refused(device.run("init"), "abst id", "--home")
        self.assertEqual(before, device.ok("id"))

    def test_init_reports_as_json(self) -> None:
        device = CommandLine(self.folder / "home")
        report = device.json("init", "--name", "laptop")
        self.assertEqual(device.ok("id").strip(), report["device_id"])
        self.assertEqual("laptop", report["name"])
        self.assertEqual(str(device.home), report["home"])

    def test_the_home_is_found_where_the_environment_says(self) -> None:
        device = self.device("laptop")
        (self.folder / "abst").symlink_to(device.home)
        for changes in ({"ABST_HOME": str(device.home)}, {"XDG_DATA_HOME": str(self.folder)}):
            done = subprocess.run(
                [*device.command()[:4], "id", "--json"],
                env={**ENVIRONMENT, **changes},
                capture_output=True,
                timeout=SECONDS,
                check=True,
            )
            self.assertEqual("laptop", json.loads(done.stdout)["name"])

    def test_a_qr_code_has_the_id_under_it(self) -> None:
        device = self.device("laptop")
        drawn = device.ok("id", "--qr")
        self.assertTrue(drawn.endswith("\n" + device.ok("id")), drawn)
        self.assertGreater(drawn.count("█"), 100)

    def test_a_home_that_is_not_there(self) -> None:
        device = CommandLine(self.folder / "home")
        commands = [("id",), ("up",), ("up", "--foreground"), ("down",), ("status",), ("peers",)]
        commands += [("inbox", "--json"), ("ping", "bob"), ("realm", "list"), ("trust", NOBODY)]
        for command in commands:
            self.assert_refused(device.run(*command), "run 'abst init' first", str(device.home))
        self.assertFalse(device.home.exists())

    def test_a_home_that_others_can_read(self) -> None:
        device = self.device("laptop")
        device.home.chmod(0o755)
        for command in (("id",), ("up",), ("status",), ("peers",)):
            self.assert_refused(device.run(*command), f"chmod 700 {device.home}", "0755")
        device.home.chmod(0o700)
        device.ok("id")

    def test_a_home_that_is_a_file(self) -> None:
        home = self.folder / "home"
        home.write_text("no folder")
        self.assert_refused(CommandLine(home).run("status"), "abst init")
        self.assert_refused(CommandLine(home).run("init"), str(home))

    def test_a_home_whose_path_is_too_long_for_a_socket(self) -> None:
        device = CommandLine(self.folder / ("long" * 30))
        device.init("laptop")
        self.assert_refused(device.run("up"), "too long for a socket")


class AgentTests(CommandLineTestCase):
    """Starting, stopping and losing the agent."""

    def test_up_status_down(self) -> None:
        device = self.device("laptop")
        self.assert_refused(device.run("status"), "not running", "abst up")
        self.assertFalse(json.loads(device.run("status", "--json").stdout)["running"])
        self.assertIn("running now", device.ok("up"))
        self.assertIn("running already", device.ok("up"))
        self.assertIn("laptop", device.ok("status"))
        status = device.json("status")
        self.assertTrue(status["running"])
        self.assertEqual(device.ok("id").strip(), status["device_id"])
        self.assertEqual((str(device.home), [], 0), self.summary(status))
        self.assertIn("stopped", device.ok("down"))
        self.assertFalse((device.home / "agent.sock").exists())
        self.assertIn("not running", device.ok("down"))
        self.assert_refused(device.run("status"), "not running")

    def summary(self, status: dict[str, object]) -> tuple[object, ...]:
        """Return what is the same in every new device."""
        return status["home"], status["realms"], status["peers"]

    def test_a_command_starts_the_agent_and_says_so(self) -> None:
        device = self.device("laptop")
        done = device.run("peers", "--json")
        self.assertEqual({"peers": []}, json.loads(done.stdout))
        self.assertEqual(f"abst: started the agent for {device.home}\n", done.stderr)
        self.assertEqual("", device.run("peers", "--json").stderr)

    def test_the_agent_outlives_its_terminal_and_keeps_its_log(self) -> None:
        device = self.device("laptop")
        process = device.start("up")
        self.assertIn("running now", process.communicate(timeout=SECONDS)[0])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)
        device.ok("status")
        self.assertIn("ready", (device.home / "agent.log").read_text())
        self.assertEqual(0o600, stat.S_IMODE((device.home / "agent.log").stat().st_mode))
        self.assertEqual(0o600, stat.S_IMODE((device.home / "agent.sock").stat().st_mode))

    def test_the_agent_does_not_hold_the_folder_that_it_was_started_in(self) -> None:
        device = self.device("laptop")
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        device.ok("up", folder=elsewhere)
        (number,) = processes_of(device.home, "abst.agent")
        self.assertEqual(str(device.home), os.readlink(f"/proc/{number}/cwd"))

    def test_what_a_killed_agent_leaves_is_no_obstacle(self) -> None:
        device = self.device("laptop")
        device.up()
        device.kill()
        self.assertTrue((device.home / "agent.sock").exists())
        self.assert_refused(device.run("status"), "not running")
        self.assertIn("not running", device.ok("down"))
        done = device.run("peers")
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn("started the agent", done.stderr)

    def test_several_commands_at_once_start_one_agent(self) -> None:
        device = self.device("laptop")
        processes = [device.start("peers", "--json") for _ in range(3)]
        for process in processes:
            out, said = process.communicate(timeout=SECONDS)
            self.assertEqual((0, {"peers": []}), (process.returncode, json.loads(out)), said)
        wait_until(
            lambda: len(processes_of(device.home, "abst.agent")) == 1, "the others have given up"
        )
        self.assertEqual("", device.run("peers", "--json").stderr)

    def test_in_the_foreground_it_logs_to_the_terminal_until_ctrl_c(self) -> None:
        device = self.device("laptop")
        process = device.start("up", "--foreground")
        self.addCleanup(end, process)
        wait_until(lambda: device.run("status").returncode == 0, "the agent answers")
        self.assert_refused(device.run("up", "--foreground"), "running already")
        status, said = self.interrupt(process)
        self.assertEqual(0, status)
        self.assertIn("ready", said)
        self.assertNotIn("Traceback", said)
        self.assert_refused(device.run("status"), "not running")

    def test_an_agent_that_cannot_start_says_why_in_one_line(self) -> None:
        device = self.device("laptop")
        (device.home / "settings.json").write_text("{")
        self.assert_refused(device.run("up"), "settings.json", "not JSON")
        self.assert_refused(device.run("peers"), "settings.json", "not JSON")

    def test_a_folder_with_modules_of_its_own_is_safe_to_stand_in(self) -> None:
        device = self.device("laptop")
        (self.folder / "abst").mkdir()
        for trap in ("abst/__init__.py", "twisted.py", "json.py"):
            (self.folder / trap).write_text("raise SystemExit('trapped')")
        device.ok("peers", folder=self.folder)


class RealmsAndPeersTests(CommandLineTestCase):
    """What a device keeps: its realms and whom it trusts. No realm is needed for that."""

    def test_realms_are_added_listed_and_removed(self) -> None:
        device = self.device("laptop")
        self.assertIn("abst realm add", device.run("realm", "list").stderr)
        address = "abst://127.0.0.1:9/"
        added = device.run("realm", "add", "abst://127.0.0.1:9")
        self.assertEqual((0, f"added {address}\n"), (added.returncode, added.stdout))
        self.assertIn("is the realm running?; it goes on trying", added.stderr)
        again = device.json("realm", "add", address)
        self.assertEqual(
            (address, True, False), tuple(again[key] for key in ("realm", "known", "up"))
        )
        self.assertIn(address, device.ok("realm", "list"))
        (realm,) = device.json("realm", "list")["realms"]
        self.assertEqual((address, False), (realm["realm"], realm["up"]))
        device.ok("down")
        self.assertIn(address, device.ok("realm", "list"))
        self.assert_refused(device.run("realm", "remove", "example.org"), "abst realm list")
        self.assertEqual({"realm": address}, device.json("realm", "remove", "127.0.0.1"))
        self.assertEqual({"realms": []}, device.json("realm", "list"))

    def test_peers_are_trusted_listed_and_forgotten(self) -> None:
        device = self.device("laptop")
        trusted = device.json("trust", NOBODY.upper(), "--name", "phone")
        self.assertEqual({"peer": "phone", "device_id": NOBODY, "name": "phone"}, trusted)
        self.assertIn("phone", device.ok("peers"))
        (peer,) = device.json("peers")["peers"]
        self.assertEqual(("phone", NOBODY, None), (peer["peer"], peer["device_id"], peer["path"]))
        device.ok("down")
        self.assertEqual(NOBODY, device.json("forget", "phone")["device_id"])
        self.assertEqual({"peers": []}, device.json("peers"))
        self.assert_refused(device.run("forget", "phone"), "abst peers")

    def test_where_a_peer_listens_is_added_and_removed(self) -> None:
        device = self.device("laptop")
        device.ok("trust", NOBODY, "--name", "phone")
        out = device.ok("peers", "add-address", "phone", "192.0.2.7:4000")
        self.assertEqual("added: phone listens at 192.0.2.7:4000\n", out)
        answer = device.json("peers", "add-address", "phone", "[2001:DB8::1]:4000")
        found = ["192.0.2.7:4000", "[2001:db8::1]:4000"]
        self.assertEqual(("phone", found), (answer["peer"], answer["addresses"]))
        device.ok("down")
        self.assertIn(found[0], device.ok("peers"))
        (peer,) = device.json("peers")["peers"]
        self.assertEqual(found, peer["addresses"])
        device.ok("peers", "remove-address", "phone", found[0])
        (peer,) = device.json("peers")["peers"]
        self.assertEqual(found[1:], peer["addresses"])
        refused = device.run("peers", "remove-address", "phone", found[0])
        self.assert_refused(refused, "abst peers", found[0])
        self.assert_refused(device.run("peers", "add-address", "eve", "a:1"), "eve", "abst peers")

    def test_a_device_does_not_trust_itself(self) -> None:
        device = self.device("laptop")
        self.assert_refused(device.run("trust", device.ok("id").strip()), "own ID")

    def test_wrong_usage_has_status_2_and_starts_nothing(self) -> None:
        device = self.device("laptop")
        for command, words in (
            (("trust", "phone"), ("DEVICE_ID", "abst trust --help")),
            (("realm", "add", "https://example.org"), ("LINK", "abst://")),
            (("peers", "add-address", "phone", "192.0.2.7"), ("HOST:PORT", "abst peers add-")),
            (("peers", "add-address", "phone", "2001:db8::1:4000"), ("brackets",)),
            (("peers", "sing"), ("sing",)),
            (("ping", "phone", "--count", "0"), ("--count",)),
            (("ping", "phone", "--interval", "nan"), ("--interval",)),
            (("ping",), ("PEER",)),
            (("send", "phone"), ("FILE",)),
            (("message", "phone", b"\xff"), ("UTF-8",)),
            (("sing",), ("sing",)),
            (("--sing",), ("--sing",)),
        ):
            self.assert_refused(device.run(*command), *words, status=2)
        self.assertFalse((device.home / "agent.sock").exists())


class EndingTests(CommandLineTestCase):
    """Commands that are ended from outside end quietly."""

    def test_ctrl_c_while_listening(self) -> None:
        device = self.device("laptop")
        device.up()
        process = device.start("listen", "--json")
        self.addCleanup(end, process)
        self.assertEqual({"kind": "listening"}, json.loads(read_line(process)))
        status, said = self.interrupt(process)
        self.assertEqual((130, ""), (status, said.strip()))

    def test_nobody_reads_what_is_printed(self) -> None:
        device = self.device("laptop")
        for command in (("--help",), ("id",), ("id", "--qr"), ("--version",)):
            process = device.start(*command)
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            said = process.stderr.read()
            process.stderr.close()
            self.assertIn(process.wait(SECONDS), (0, 1))
            self.assertEqual("", said)

    def test_an_agent_that_dies_while_it_is_asked(self) -> None:
        device = self.device("laptop")
        device.up()
        process = device.start("listen", "--json")
        self.addCleanup(end, process)
        read_line(process)
        device.kill()
        _, said = process.communicate(timeout=SECONDS)
        self.assertEqual(1, process.returncode)
        self.assertRegex(said, r"\Aabst: the agent stopped .*agent\.log\n\Z")


class TalkTests(CommandLineTestCase):
    """Two devices that trust each other, and a realm between them."""

    def setUp(self) -> None:
        super().setUp()
        stage = shared_stage()
        self.realm, self.alice, self.bob = stage.realm, stage.alice, stage.bob

    def file(self, name: str | bytes, content: bytes) -> Path:
        """Write a file to be sent."""
        path = self.folder / os.fsdecode(name)
        path.write_bytes(content)
        return path

    # Ping and messages.

    def test_ping_counts_and_names_the_path(self) -> None:
        out = self.alice.ok("ping", "bob", "--count", "2", "--interval", "0.05")
        self.assertIn("2 sent, 2 received", out)
        self.assertIn("over realm 127.0.0.1", out)
        out = self.alice.ok("ping", "bob", "--count", "2", "--interval", "0", "--json")
        *answers, total = map(json.loads, out.splitlines())
        self.assertEqual([1, 2], [answer["sequence"] for answer in answers])
        self.assertEqual({"bob"}, {answer["peer"] for answer in answers})
        self.assertTrue(all(answer["path"].startswith("realm ") for answer in answers))
        self.assertEqual({"realm"}, {answer["path_kind"] for answer in answers})
        self.assertEqual((2, 2), (total["sent"], total["received"]))
        self.assertLessEqual(total["min_seconds"], total["max_seconds"])

    def test_a_session_is_seen_in_peers_and_status(self) -> None:
        self.alice.ok("ping", "bob", "--count", "1")
        (peer,) = self.alice.json("peers")["peers"]
        self.assertTrue(peer["key_pinned"])
        self.assertTrue(peer["path"].startswith("realm "))
        self.assertIn("in a session over realm", self.alice.ok("peers"))
        status = self.alice.json("status")
        self.assertEqual(["bob"], [session["peer"] for session in status["sessions"]])
        self.assertEqual(["realm"], [session["path_kind"] for session in status["sessions"]])
        self.assertEqual([True], [realm["up"] for realm in status["realms"]])
        self.assertRegex(self.alice.ok("status"), r"realm +abst://\S+ +connected\n")

    def test_a_message_is_heard_and_kept(self) -> None:
        process = self.bob.start("listen", "--count", "1", "--json")
        self.addCleanup(end, process)
        self.assertEqual("listening", json.loads(read_line(process))["kind"])
        sent = self.alice.json("message", "bob", "Grüße 🌍")
        self.assertEqual(("bob", True), (sent["peer"], sent["delivered"]))
        heard = json.loads(read_line(process))
        self.assertEqual(("message", "alice", "Grüße 🌍"), self.message_of(heard))
        self.assertEqual(0, process.wait(SECONDS))
        self.assertIn(heard, self.bob.json("inbox")["items"])
        self.assertIn("alice: Grüße 🌍", self.bob.ok("inbox"))

    def message_of(self, item: dict[str, str]) -> tuple[str, str, str]:
        """Return what a message says."""
        return item["kind"], item["peer"], item["text"]

    def test_a_message_cannot_play_with_the_terminal(self) -> None:
        process = self.bob.start("listen", "--count", "1")
        self.addCleanup(end, process)
        assert process.stderr is not None
        self.assertIn("listening", process.stderr.readline())
        self.alice.ok("message", "bob", "--", "-\x1b]0;title\x07\x9b2J\u202ex\r\n2026 bob: forged")
        out, _ = process.communicate(timeout=SECONDS)
        first, second = out.splitlines()
        self.assertTrue(first.endswith(r"alice: -\x1b]0;title\x07\x9b2J\u202ex\r"), out)
        self.assertEqual("    2026 bob: forged", second)

    # Files.

    def test_files_with_strange_names_arrive_whole(self) -> None:
        contents = {
            b"plain.txt": b"plain",
            "grüße 🌍.txt".encode(): b"unicode",
            b"two\nlines": b"newline",
            b"-rf": b"dash",
            b"no-unicode-\xff": b"bytes",
            b"empty": b"",
        }
        for name, content in contents.items():
            self.file(name, content)
        out = self.alice.ok("send", "bob", "--json", "--", *contents, folder=self.folder)
        *files, total = map(json.loads, out.splitlines())
        self.assertEqual(len(contents), len(files))
        self.assertEqual("bob", total["peer"])
        self.assertEqual([f["stored_as"] for f in files], [f["stored_as"] for f in total["files"]])
        by_hash = {item.get("sha256"): item for item in self.bob.json("inbox")["items"]}
        for file, content in zip(files, contents.values(), strict=True):
            arrived = Path(by_hash[file["sha256"]]["path"])
            self.assertEqual(content, arrived.read_bytes())
            self.assertEqual(self.bob.home / "inbox" / file["stored_as"], arrived)
            self.assertTrue(arrived.name.isprintable(), arrived)
            self.assertEqual(len(content), file["size_bytes"])

    def test_what_a_person_sees_of_a_file(self) -> None:
        path = self.file("a\x1b[2Jb.txt", b"x" * 1500)
        self.assertRegex(self.alice.ok("send", "bob", str(path)), r"a\\x1b\[2Jb\.txt: 1\.5 kB")
        self.assertRegex(self.bob.ok("inbox"), r"alice  sent a file of 1\.5 kB: /\S+inbox/a\S+\n")

    def test_an_existing_file_is_never_replaced(self) -> None:
        first = self.file("same.txt", b"first")
        self.alice.ok("send", "bob", str(first))
        second = self.file("same.txt", b"second")
        sent = self.alice.ok("send", "bob", str(second))
        self.assertIn("stored as same (1).txt", sent)
        inbox = self.bob.home / "inbox"
        self.assertEqual(b"first", (inbox / "same.txt").read_bytes())
        self.assertEqual(b"second", (inbox / "same (1).txt").read_bytes())

    def test_what_is_no_file_is_not_sent(self) -> None:
        os.mkfifo(self.folder / "pipe")
        whole = self.file("whole", b"whole")
        for name in ("missing", "pipe"):
            path = str(self.folder / name)
            self.assert_refused(self.alice.run("send", "bob", str(whole), path), path)

    def test_folders_arrive_and_what_is_not_sent_is_named(self) -> None:
        trip = self.folder / "trip"
        (trip / "day 1" / "nothing").mkdir(parents=True)
        (trip / "day 1" / "a.txt").write_bytes(b"x" * 1500)
        (trip / "b.txt").write_bytes(b"y")
        (trip / "b.txt").chmod(0o640)
        os.utime(trip / "b.txt", (1e9, 1e9))
        (trip / "link\n").symlink_to("/etc/passwd")
        single = self.file("single.txt", b"z")
        done = self.alice.run("send", "bob", ".", str(single), folder=trip)
        self.assertEqual(0, done.returncode, done)
        one, two, total = done.stdout.splitlines()
        self.assertRegex(one, r"^sent trip: 2 files, 1\.5 kB.*, each checked by its SHA-256$")
        self.assertRegex(two, r"^sent single\.txt: 1 byte.*, SHA-256 [0-9a-f]{64}$")
        self.assertRegex(total, r"^2 sent: 1\.5 kB in .*/s$")
        self.assertIn(f"not sent, neither a file nor a folder: {trip}/link\\n", done.stderr)
        (item,) = [i for i in self.bob.json("inbox")["items"] if i["kind"] == "folder"]
        stored = Path(item["path"])
        self.assertEqual(b"x" * 1500, (stored / "day 1" / "a.txt").read_bytes())
        self.assertTrue((stored / "day 1" / "nothing").is_dir())
        status = (stored / "b.txt").stat()
        self.assertEqual((0o640, 1e9), (status.st_mode & 0o7777, status.st_mtime))
        self.assertRegex(self.bob.ok("inbox"), r"alice  sent a folder of 1\.5 kB: /\S+inbox/trip")
        out = self.alice.ok("send", "bob", "--json", str(trip))
        event, result = map(json.loads, out.splitlines())
        self.assertEqual(("folder", 2, 1), (event["kind"], event["files"], event["skipped_count"]))
        self.assertEqual(1501, result["total_bytes"])
        self.assertGreater(result["bytes_per_second"], 0)

    def test_progress_is_for_people_only(self) -> None:
        path = self.file("seen.bin", b"\x01" * 3_000_000)
        self.assertEqual("", self.alice.run("send", "bob", str(path)).stderr)
        shown = self.on_a_terminal("send", "bob", str(path))
        self.assertIn("seen.bin: 100%", shown)
        self.assertIn("3.00M/3.00M", shown)
        self.assertEqual("", self.on_a_terminal("send", "--json", "bob", str(path)))

    def on_a_terminal(self, *arguments: str) -> str:
        """Return what one of alice's commands shows on a terminal as its stderr."""
        seen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with os.fdopen(seen, "rb", buffering=0) as seen_file:
            with os.fdopen(terminal, "wb") as terminal_file:
                subprocess.run(
                    self.alice.command(*arguments),
                    env=ENVIRONMENT,
                    stdout=subprocess.DEVNULL,
                    stderr=terminal_file,
                    timeout=SECONDS,
                    check=True,
                )
            shown = b""
            with contextlib.suppress(OSError):  # EIO is a terminal's end
                while data := seen_file.read(4096):
                    shown += data
        return shown.decode()

    def test_ctrl_c_cancels_the_send(self) -> None:
        path = self.folder / "large.bin"
        with path.open("wb") as file:
            file.truncate(LARGE_BYTES)
        process = self.alice.start("send", "bob", str(path))
        self.addCleanup(end, process)
        wait_until(lambda: [p for p in self.drafts() if p.stat().st_size], "the file is on its way")
        status, said = self.interrupt(process)
        self.assertEqual((130, ""), (status, said.strip()))
        wait_until(lambda: not self.drafts(), "the receiver has discarded it")
        self.assertNotIn("large.bin", self.bob.ok("inbox"))
        self.alice.ok("ping", "bob", "--count", "1")

    def test_a_send_tells_when_it_waits_and_when_it_goes_on(self) -> None:
        path = self.folder / "patient.bin"
        with path.open("wb") as file:
            file.truncate(PATIENT_BYTES)
        process = self.alice.start("send", "bob", "--json", str(path))
        self.addCleanup(end, process)
        wait_until(lambda: [p for p in self.drafts() if p.stat().st_size], "the file is on its way")
        self.addCleanup(self.bring_bob_back)
        self.bob.kill()
        told = json.loads(read_line(process))
        self.assertEqual(("bob", True), (told["peer"], told["waiting"]))
        # Which one depends on whether anything was sent to it that the realm could not deliver.
        self.assertIn(told["reason"], ("bob is away", "bob has not answered for 10 seconds"))
        self.bob.up()
        told = json.loads(read_line(process))
        self.assertEqual(("bob", False), (told["peer"], told["waiting"]))
        one, total = json.loads(read_line(process)), json.loads(read_line(process))
        self.assertEqual(("patient.bin", PATIENT_BYTES), (one["file"], one["size_bytes"]))
        self.assertEqual(["patient.bin"], [file["file"] for file in total["files"]])
        self.assertEqual(0, process.wait(SECONDS))

    def bring_bob_back(self) -> None:
        """Start bob's agent again, unless a test has done so."""
        if not self.bob.is_answering():
            self.bob.up()

    def drafts(self) -> list[Path]:
        """Return what is half written in bob's inbox."""
        return list((self.bob.home / "inbox").glob(".*.abst-partial"))

    # What goes wrong.

    def test_a_peer_that_is_absent(self) -> None:
        self.alice.ok("trust", NOBODY, "--name", "ghost")
        self.addCleanup(self.alice.ok, "forget", "ghost")
        path = self.file("file.txt", b"x")
        for command in (
            ("send", "ghost", str(path)),
            ("ping", "ghost", "--count", "1"),
        ):
            self.assert_refused(
                self.alice.run(*command), "abst: ghost is not connected", "is it on"
            )
        said = self.alice.ok("message", "ghost", "hi")
        self.assertEqual("waiting: ghost is away; it goes by itself when both are there\n", said)

    def test_a_peer_that_is_not_known(self) -> None:
        self.assert_refused(self.alice.run("ping", "nobody"), "nobody", "abst peers", "abst trust")

    def test_a_peer_that_does_not_trust_this_device(self) -> None:
        alice = self.alice.ok("id").strip()
        self.alice.ok("message", "bob", "hello")
        self.bob.ok("forget", "alice")
        self.addCleanup(self.alice.ok, "message", "bob", "hello again")
        self.addCleanup(self.bob.ok, "trust", alice, "--name", "alice")
        words = ("bob", "does not trust", f"abst trust {alice}")
        self.assert_refused(self.alice.run("message", "bob", "hello?"), *words)
        path = self.file("file.txt", b"x")
        self.assert_refused(self.alice.run("send", "bob", str(path)), *words)
        self.assert_refused(self.bob.run("message", "alice", "who?"), "alice", "abst trust")

    def test_a_realm_with_another_key(self) -> None:
        device = self.device("frank")
        pin = self.realm.address.partition("pin=")[2]
        wrong = self.realm.address.replace(pin, "A" * len(pin))
        device.up()
        self.assert_refused(device.run("realm", "add", wrong), "another key", "abst realm remove")
        device.ok("trust", NOBODY, "--name", "ghost")
        self.assertIn("another key", device.ok("status"))
        (realm,) = device.json("realm", "list")["realms"]
        self.assertFalse(realm["up"])
        self.assertIn("another key", realm["problem"])
        begun = time.monotonic()
        self.assert_refused(device.run("ping", "ghost"), "another key")
        self.assertLess(time.monotonic() - begun, 8, "it waited, although it knew why")
        self.assertRegex(device.ok("message", "ghost", "hi"), "waiting: .*another key")

    def test_a_device_without_a_realm(self) -> None:
        device = self.device("grace")
        device.ok("trust", NOBODY, "--name", "ghost")
        self.assert_refused(device.run("ping", "ghost"), "abst realm add")
        self.assertIn("abst realm add", device.ok("message", "ghost", "boo"))
