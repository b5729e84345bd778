"""Stock programs over streams: through a circuit while devices are apart, then directly."""

from __future__ import annotations

import hashlib
import json
import random
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.command_line import ENVIRONMENT, end, read_line
from tests.lab.devices import LabDevice, seconds_until
from tests.lab.lab import Lab, LabTestCase
from tests.lab.network import ROOT
from tests.lab.test_direct import AtHome, seconds_until_direct

WRK_SECONDS = 20
SESSION_SECONDS = 120
RUN_SECONDS = 60.0
SSHD = "/usr/sbin/sshd"


def needs(*programs: str) -> None:
    """Skip a test where a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise SkipTest(f"needs {', '.join(missing)}")


class Site:
    """A folder that a stock web server shows, with a file and a git repository in it.

    Attributes:
        content: the file's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.folder.mkdir()
        self.content = random.Random(1).randbytes(3_000_000)
        (self.folder / "photo.bin").write_bytes(self.content)
        (self.folder / "index.html").write_text("<p>hello from the laptop</p>")
        self._git("init", "--quiet", "work")
        (self.folder / "work" / "story.txt").write_text("once upon a time\n" * 5000)
        self._git("-C", "work", "add", "story.txt")
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        self._git("-C", "work", *who, "commit", "--quiet", "--message", "a story")
        self._git("clone", "--quiet", "--bare", "work", "story.git")
        self._git("-C", "story.git", "update-server-info")

    def _git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.folder, check=True, timeout=RUN_SECONDS)


class Apart(AtHome):
    """A laptop at home and a phone in a café, paired; each behind NAT, with a realm outside."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.phone.move(self.cafe)
        self.phone.message(self.laptop, "I am in the café")
        seconds_until(
            lambda: self.phone.kind_of_path(self.laptop) == "realm", "the phone is in the café"
        )

    def come_home(self) -> None:
        """Carry the phone home; what is opened from now on goes directly."""
        self.phone.move(self.home)
        self.phone.message(self.laptop, "I am at home")
        seconds_until_direct(self.laptop, self.phone, 30.0)


class StreamTests(LabTestCase):
    def run_on(self, device: LabDevice, *words: str, folder: Path = ROOT) -> str:
        """Run a program to its end on a device's host, and return what it has said."""
        done = subprocess.run(
            device.host.command(*words),
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_SECONDS,
            text=True,
        )
        self.assertEqual(0, done.returncode, done.stdout)
        return done.stdout

    def start_on(
        self, device: LabDevice, *words: str, output: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start a program on a device's host; it is ended with the test."""
        process = subprocess.Popen(
            device.host.command(*words),
            cwd=ROOT,
            env={**ENVIRONMENT, "ABST_HOME": str(device.home)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(end, process)
        return process

    def serve(self, device: LabDevice, folder: Path) -> None:
        """Start a stock web server that listens at a service of a device."""
        words = ("-m", "twisted", "web", "--listen", "abst:web", "--path", str(folder))
        # It has a line to say of each request, and nobody reads them.
        self.start_on(device, sys.executable, *words, output=subprocess.DEVNULL)
        seconds_until(lambda: "web" in json.dumps(device.ask("status")), "the web server listens")

    def forward(self, device: LabDevice, peer: LabDevice, service: str) -> int:
        """Lead a service of a peer to a local port, and return the port."""
        process = device.start("forward", peer.name, service, "tcp:0", "--json")
        self.addCleanup(end, process)
        (port,) = re.findall(r":(\d+)", json.loads(read_line(process))["address"])
        return int(port)

    def path_kinds(self, device: LabDevice) -> set[str]:
        """Return what carries the streams that are open just now."""
        return {found["path_kind"] for found in device.ask("status")["streams"]}

    def use_web(self, device: LabDevice, port: int, site: Site, expected: str) -> None:
        """Fetch a file, clone a repository, and ask as fast as possible for 20 seconds."""
        url = f"http://127.0.0.1:{port}"
        folder = device.home.parent / f"fetched-{expected}"
        folder.mkdir()
        self.run_on(device, "curl", "-sSf", "-o", str(folder / "photo.bin"), f"{url}/photo.bin")
        fetched = hashlib.sha256((folder / "photo.bin").read_bytes()).hexdigest()
        self.assertEqual(hashlib.sha256(site.content).hexdigest(), fetched)
        self.run_on(device, "git", "clone", "--quiet", f"{url}/story.git", folder=folder)
        story = (folder / "story" / "story.txt").read_text()
        self.assertEqual("once upon a time\n" * 5000, story)
        found: set[str] = set()
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(0.5):
                found.update(self.path_kinds(device))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            said = self.run_on(
                device, "wrk", "-t", "1", "-c", "8", "-d", f"{WRK_SECONDS}s", f"{url}/index.html"
            )
        finally:
            is_over.set()
            watching.join()
        self.assertNotIn("Non-2xx", said)
        self.assertNotIn("Socket errors", said)
        self.assertEqual({expected}, found)
        (rate,) = re.findall(r"Requests/sec: +([\d.]+)", said)
        self.assertGreater(float(rate), 20)
        self.tell(f"{expected}: {rate} requests a second, none failed")

    def test_a_web_site_from_far_and_near(self) -> None:
        needs("curl", "git", "wrk")
        with Lab() as lab:
            places = Apart(lab)
            laptop, phone = places.laptop, places.phone
            site = Site(laptop.home.parent)
            self.serve(laptop, site.folder)
            port = self.forward(phone, laptop, "web")
            self.use_web(phone, port, site, "realm")
            places.come_home()
            self.use_web(phone, port, site, "direct")

    def test_a_shell_for_minutes_from_far_and_near(self) -> None:
        """Two sessions go on side by side: one began far away, the other one at home."""
        needs("ssh", "ssh-keygen", SSHD)
        with Lab() as lab:
            places = Apart(lab)
            laptop, phone = places.laptop, places.phone
            shell = Shell(self, laptop)
            laptop.ok("expose", "ssh", f"tcp:127.0.0.1:{shell.port}")
            port = self.forward(phone, laptop, "ssh")
            far = shell.session(phone, port)
            far.speak()
            self.assertEqual({"realm"}, self.path_kinds(phone))
            far.go_on_for(SESSION_SECONDS)
            far.leave()
            places.come_home()
            near = shell.session(phone, port)
            near.speak()
            self.assertEqual({"direct"}, self.path_kinds(phone))
            near.go_on_for(SESSION_SECONDS / 4)
            near.leave()


class Shell:
    """A stock SSH server that listens on a device's host to programs of that host alone.

    Attributes:
        port: where.
    """

    port = 2222

    def __init__(self, test: StreamTests, device: LabDevice) -> None:
        self._test = test
        self._folder = device.home.parent / "ssh"
        self._folder.mkdir(mode=0o700)
        for name in ("host", "user"):
            key = str(self._folder / name)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (self._folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\n"
            f"HostKey {self._folder / 'host'}\n"
            f"AuthorizedKeysFile {self._folder / 'user.pub'}\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        config = str(self._folder / "config")
        test.start_on(device, SSHD, "-D", "-e", "-f", config, output=subprocess.DEVNULL)

    def session(self, device: LabDevice, port: int) -> Session:
        """Return a session from another host."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        process = self._test.start_on(
            device,
            *("ssh", "-T", "-p", str(port), "-i", str(self._folder / "user")),
            *(word for option in options for word in ("-o", option)),
            *("127.0.0.1", "cat"),
        )
        return Session(self._test, process)


class Session:
    """A shell on another device, in which ``cat`` says everything again."""

    def __init__(self, test: StreamTests, process: subprocess.Popen[str]) -> None:
        self._test = test
        self._process = process
        self._said = 0

    def speak(self) -> None:
        """Say a line, and hear it again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._said += 1
        line = f"line {self._said}\n"
        self._process.stdin.write(line)
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], RUN_SECONDS)
        self._test.assertTrue(ready, f"{line!r} was not heard again")
        self._test.assertEqual(line, self._process.stdout.readline())

    def go_on_for(self, seconds: float) -> None:
        """Say a line each second."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.speak()
            time.sleep(1.0)
        self._test.tell(f"{self._said} lines, each heard again")

    def leave(self) -> None:
        """Say that nothing more comes, to which the other side answers in the same way."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None
        self._test.assertEqual(0, self._process.wait(RUN_SECONDS))
