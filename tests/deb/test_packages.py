"""The Debian packages, in a Debian 13 that boots with them: ``make deb-test``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest import SkipTest

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import TestCase

from abst.address import RealmAddress
from tests.certificates import write_certificate
from tests.deb.machine import Machine, wait_until

ROOT = Path(__file__).parent.parent.parent
DEBIAN = ROOT / ".venv" / "debian-13-roots" / "service"
UNIT = "abst-realm.service"
STATE = "/var/lib/abst-realm"
CREDENTIALS = f"/run/credentials/{UNIT}"
MAX_EXPOSURE = 1.5
"""As ``systemd-analyze security`` counts: 10 is a service that may do anything."""


class PackagesTests(TestCase):
    timeout = 600

    def setUp(self) -> None:
        if not os.environ.get("ABST_DEB"):
            raise SkipTest("boots a Debian 13 with the packages in it: make deb-test")
        self.assertTrue(DEBIAN.is_dir(), "make deb-test makes it")
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        for package in (ROOT / "dist").glob("*.deb"):
            shutil.copy(package, self.folder)
        self.machine = Machine(DEBIAN, self.folder)
        self.addCleanup(self.machine.close)

    def install(self) -> None:
        self.machine.run("sh", "-c", "dpkg --install /mnt/*.deb")

    def ours(self) -> set[str]:
        """Return the files of the machine's system with ABST's name, in homes excepted."""
        found = self.machine.run("sh", "-c", "find / -xdev -name '*abst*' -not -path '/home/*'")
        return set(found.splitlines())

    def wait_for_restart(self, restarts: int) -> None:
        """Wait until the service has been started again so many times, and is ready."""

        def is_back() -> bool:
            shown = [self.machine.show(UNIT, name) for name in ("NRestarts", "ActiveState")]
            return shown == [str(restarts), "active"]

        wait_until(is_back, f"restart {restarts}")

    def agent(self, name: str, *arguments: str) -> dict[str, object]:
        """Run the installed command for a device of the machine's user; return its JSON."""
        home = ("--home", f"/home/ada/{name}")
        said = self.machine.run("abst", *home, *arguments, "--json", user="ada")
        found: dict[str, object] = json.loads(said[said.index("{") :])
        return found

    def invite(self) -> str:
        """Return a link for one more device, as the operator makes it."""
        said = self.machine.run("abst-realm", "invite", "--json")
        (link,) = json.loads(said[said.index("{") :])["links"]
        return str(link)

    def make_devices(self) -> None:
        """Make two devices that were invited to the realm and trust each other."""
        # A new realm has an invitation for its first device.
        links = {
            "phone": self.machine.run("cat", f"{STATE}/first-invitation").strip(),
            "laptop": self.invite(),
        }
        self.machine.run("useradd", "--create-home", "--shell", "/bin/sh", "ada")
        ids = {
            name: self.agent(name, "init", "--name", name)["device_id"]
            for name in ("phone", "laptop")
        }
        for name, other in (("phone", "laptop"), ("laptop", "phone")):
            self.agent(name, "lan", "off")
            added = self.agent(name, "realm", "add", links[name])
            self.assertTrue(added["up"], added)
            self.agent(name, "trust", str(ids[other]), "--name", other)

    def wait_for_devices(self, number: int) -> None:
        wanted = f"devices here: {number}"
        wait_until(lambda: self.machine.show(UNIT, "StatusText") == wanted, wanted)

    def test_a_realm_from_install_to_purge(self) -> None:
        machine = self.machine
        before = self.ours()
        self.install()

        # It runs, and has said so itself.
        self.assertEqual("active", machine.show(UNIT, "ActiveState"))
        self.assertEqual("notify", machine.show(UNIT, "Type"))
        self.assertEqual("devices here: 0", machine.show(UNIT, "StatusText"))
        self.assertEqual("enabled", machine.run("systemctl", "is-enabled", UNIT).strip())
        self.assertEqual("_abst 700", machine.run("stat", "--format=%U %a", STATE).strip())
        address = machine.run("cat", f"{STATE}/address").strip()
        self.assertTrue(address.startswith("abst://127.0.0.1:42278/?pin="), address)
        machine.run("systemd-analyze", "security", f"--threshold={MAX_EXPOSURE * 10:.0f}", UNIT)
        self.assertNotIn("open files", machine.run("journalctl", "--unit", UNIT))

        # From here on the watchdog has less patience than it has outside of tests.
        drop_in = f"/run/systemd/system/{UNIT}.d"
        machine.run("mkdir", "-p", drop_in)
        machine.run("sh", "-c", f"printf '[Service]\\nWatchdogSec=4\\n' > {drop_in}/test.conf")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", UNIT)
        self.assertEqual(address, machine.run("cat", f"{STATE}/address").strip())

        # Devices use it, also through a circuit.
        self.make_devices()
        self.wait_for_devices(2)
        self.agent("phone", "message", "laptop", "hello")
        machine.run("sh", "-c", "head -c 3000000 /dev/urandom > /tmp/photo")
        machine.run("abst", "--home", "/home/ada/phone", "send", "laptop", "/tmp/photo", user="ada")
        machine.run("sh", "-c", "cmp /tmp/photo $(find /home/ada/laptop/inbox -name photo)")

        # Stuck, it is noticed; killed, it comes back; the devices too, each time.
        for restarts, signal in enumerate(("STOP", "KILL"), start=1):
            process_id = machine.show(UNIT, "MainPID")
            machine.run("kill", f"-{signal}", process_id)
            self.wait_for_restart(restarts)
            self.assertNotEqual(process_id, machine.show(UNIT, "MainPID"))
            self.wait_for_devices(2)
            self.agent("laptop", "message", "phone", f"after {signal}")
        self.assertIn("Watchdog timeout", machine.run("journalctl", "--unit", UNIT))

        # An upgrade keeps what it has, and restarts it.
        process_id = machine.show(UNIT, "MainPID")
        self.install()
        self.assertNotEqual(process_id, machine.show(UNIT, "MainPID"))
        self.assertEqual(address, machine.run("cat", f"{STATE}/address").strip())
        self.wait_for_devices(2)

        # Stopped, it ends well, and stays so.
        machine.run("systemctl", "stop", UNIT)
        self.assertEqual("success", machine.show(UNIT, "Result"))
        self.assertEqual("inactive", machine.show(UNIT, "ActiveState"))

        # Removed, it keeps what cannot be had again; purged, nothing.
        machine.run("dpkg", "--remove", "abst-realm")
        machine.run("test", "-e", f"{STATE}/identity.pem")
        machine.run("test", "-e", "/etc/abst/realm.toml")
        machine.run("rm", "-r", drop_in)
        machine.run("dpkg", "--purge", "abst-realm", "abst", "python3-abst")
        self.assertEqual(set(), self.ours() - before)

    def test_a_configuration_that_is_not_usable_is_tried_once(self) -> None:
        machine = self.machine
        machine.run("sh", "-c", "mkdir /etc/abst; echo 'colour = 1' > /etc/abst/realm.toml")
        machine.run("sh", "-c", "dpkg --force-confold --install /mnt/*.deb")
        wait_until(lambda: machine.show(UNIT, "ActiveState") == "failed", "a failure")
        self.assertEqual("0", machine.show(UNIT, "NRestarts"))
        log = machine.run("journalctl", "--unit", UNIT)
        self.assertIn("/etc/abst/realm.toml: colour: unknown", log)
        machine.run("rm", "/etc/abst/realm.toml")
        machine.run("sh", "-c", "echo '' > /etc/abst/realm.toml")
        machine.run("systemctl", "restart", UNIT)
        self.assertEqual("active", machine.show(UNIT, "ActiveState"))

    def test_ports_and_certificates_as_the_guide_has_them(self) -> None:
        """With its own name in the certificate, and a port that it may not open by itself."""
        machine = self.machine
        self.install()
        files = write_certificate(self.folder, ec.generate_private_key(ec.SECP256R1()))
        credentials = tuple(file.name for file in files)
        machine.run("install", "-m", "600", *(f"/mnt/{name}" for name in credentials), "/root")
        write = 'printf "%b" "$0" > "$1"'
        loading = "".join(f"LoadCredential={name}:/root/{name}\n" for name in credentials)
        machine.run("mkdir", f"/etc/systemd/system/{UNIT}.d")
        settings = (
            'listen = ["systemd:domain=INET6:index=0"]\nhost = "realm.example.org"\n'
            f'certificate = "{CREDENTIALS}/fullchain.pem"\nkey = "{CREDENTIALS}/privkey.pem"\n'
        )
        for text, file in (
            (f"[Service]\n{loading}", f"/etc/systemd/system/{UNIT}.d/certificate.conf"),
            ("[Socket]\nListenStream=443\n", "/etc/systemd/system/abst-realm.socket"),
            (settings, "/etc/abst/realm.toml"),
        ):
            machine.run("sh", "-c", write, text, file)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "stop", UNIT)
        machine.run("systemctl", "start", "abst-realm.socket", UNIT)
        address = machine.run("cat", f"{STATE}/address").strip()
        self.assertEqual(RealmAddress("realm.example.org", 443, None), RealmAddress.parse(address))
        fetch = "import ssl; print(ssl.get_server_certificate(('127.0.0.1', 443)))"
        shown = machine.run("python3", "-c", fetch)
        self.assertIn(shown.strip(), files[0].read_text("ascii"))

    def test_what_the_packages_bring_beside_the_realm(self) -> None:
        machine = self.machine
        self.install()
        self.assertIn("Usage: abst", machine.run("abst", "--help"))
        for service in ("abst-realm", "abst-device"):
            self.assertIn("Usage:", machine.run("twistd3", service, "--help"))
        completion = "/usr/share/bash-completion/completions/abst"
        machine.run("bash", "-c", f". {completion} && complete -p abst")
        machine.run("systemd-analyze", "verify", "--man=no", UNIT)

        # The agent as its unit starts it.
        machine.run("useradd", "--create-home", "--shell", "/bin/sh", "ada")
        self.agent(".local/share/abst", "init", "--name", "phone")
        unit = Path(ROOT / "etc/systemd/abst-agent.service").read_text("utf-8")
        (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
        command = start.removeprefix("ExecStart=").replace("%h", "/home/ada").split()
        settings = ("Type=notify", "WatchdogSec=4")
        options = [word for setting in settings for word in ("--property", setting)]
        machine.run("systemd-run", "--uid=ada", "--unit=agent", *options, "--", *command)
        self.assertEqual("running", machine.show("agent", "StatusText"))
        status = self.agent(".local/share/abst", "status")
        self.assertTrue(status["running"], status)
        machine.run("systemctl", "stop", "agent")
