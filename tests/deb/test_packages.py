"""The Debian packages, in a Debian 13 that boots with them: ``make deb-test``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import TestCase

from abst.address import RealmAddress
from tests.certificates import write_certificate
from tests.deb.machine import Machine, wait_until

ROOT = Path(__file__).parent.parent.parent
ROOTS = ROOT / ".venv" / "debian-13-roots"
DEBIAN = ROOTS / "service"
BEFORE = ROOTS / "before"
UNIT = "abst-realm.service"
STATE = "/var/lib/abst-realm"
CREDENTIALS = f"/run/credentials/{UNIT}"
ABST_LAPTOP = ("abst", "--home", "/home/ada/laptop")
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
        for folder, packages in ((self.folder, ROOT / "dist"), (self.folder / "before", BEFORE)):
            folder.mkdir(exist_ok=True)
            for package in packages.glob("*.deb"):
                shutil.copy(package, folder)
        self.machine = Machine(DEBIAN, self.folder)
        self.addCleanup(self.machine.close)

    def install(self) -> None:
        self.machine.run("sh", "-c", "dpkg --force-confold --install /mnt/*.deb")

    def operate(self, *arguments: str) -> dict[str, Any]:
        """Run a command of the realm's operator; return its JSON."""
        found: dict[str, Any] = json.loads(self.machine.run("abst-realm", *arguments, "--json"))
        return found

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Return the entries of the realm's journal."""
        lines = self.machine.run("journalctl", "--output=json", f"--unit={UNIT}", *matches)
        return [json.loads(line) for line in lines.splitlines()]

    def write(self, file: str, text: str) -> None:
        self.machine.run("sh", "-c", 'printf %s "$0" > "$1"', text, file)

    def lose_nobody(self) -> Callable[[], None]:
        """Return what fails when a connection has ended meanwhile."""
        gone = len([e for e in self.journal() if " is gone " in str(e["MESSAGE"])])

        def look() -> None:
            now = [e["MESSAGE"] for e in self.journal() if " is gone " in str(e["MESSAGE"])]
            self.assertEqual([], now[gone:])

        return look

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
        (link,) = self.operate("invite")["links"]
        return str(link)

    def make_devices(self, *links: str) -> None:
        """Make two devices that trust each other and use the realm, each by a link."""
        self.machine.run("useradd", "--create-home", "--shell", "/bin/sh", "ada")
        ids = {
            name: self.agent(name, "init", "--name", name)["device_id"]
            for name in ("phone", "laptop")
        }
        for name, other, link in zip(ids, reversed(ids), links, strict=True):
            self.agent(name, "lan", "off")
            added = self.agent(name, "realm", "add", link)
            self.assertTrue(added.get("up", True), added)
            self.agent(name, "trust", str(ids[other]), "--name", other)

    def invited(self) -> tuple[str, str]:
        """Return two links, of which the first is the realm's own for the first device."""
        first = self.machine.run("cat", f"{STATE}/first-invitation").strip()
        return first, self.invite()

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
        self.assertNotIn("LimitNOFILE", machine.run("journalctl", "--unit", UNIT))

        # From here on the watchdog has less patience than it has outside of tests.
        drop_in = f"/run/systemd/system/{UNIT}.d"
        machine.run("mkdir", "-p", drop_in)
        machine.run("sh", "-c", f"printf '[Service]\\nWatchdogSec=4\\n' > {drop_in}/test.conf")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", UNIT)
        self.assertEqual(address, machine.run("cat", f"{STATE}/address").strip())

        # Devices use it, also through a circuit.
        self.make_devices(*self.invited())
        self.wait_for_devices(2)
        self.assertIn("No such file", machine.try_run("cat", f"{STATE}/first-invitation").stdout)
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

        # The journal tells a connection's story by its number.
        (here,) = self.journal(
            "ABST_CONNECTION=1", "--boot", f"_PID={machine.show(UNIT, 'MainPID')}"
        )
        self.assertIn("connection 1: device", here["MESSAGE"])
        self.assertEqual(("abst-realm", "6"), (here["SYSLOG_IDENTIFIER"], here["PRIORITY"]))
        self.assertEqual(8, len(here["ABST_DEVICE"]))

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

    def test_an_operator_decides_and_reloads_and_nobody_is_lost(self) -> None:
        machine = self.machine
        self.install()
        address = machine.run("cat", f"{STATE}/address").strip()
        self.make_devices(*self.invited())
        self.wait_for_devices(2)

        # Only root and the realm's own user may ask it.
        refused = machine.try_run("abst-realm", "devices", user="ada")
        self.assertEqual((1, True), (refused.returncode, "try sudo" in refused.stdout))
        machine.run("runuser", "--user", "_abst", "--", "abst-realm", "devices")
        devices = self.operate("devices")["devices"]
        self.assertEqual(2, len(devices))

        # What is right is taken, what is wrong refused as a whole, and no connection ends.
        look = self.lose_nobody()
        self.write("/etc/abst/realm.toml", 'log_level = "debug"\n[limits]\nconnections = 50\n')
        machine.run("systemctl", "reload", UNIT)
        self.write("/etc/abst/realm.toml", 'log_level = "error"\n[limits]\nconnections = -1\n')
        self.assertNotEqual(0, machine.try_run("systemctl", "reload", UNIT).returncode)
        self.assertEqual("active", machine.show(UNIT, "ActiveState"))
        self.assertIn("limits.connections", machine.try_run("abst-realm", "check-config").stdout)
        self.write("/etc/abst/realm.toml", "")
        machine.run("systemctl", "reload", UNIT)
        self.agent("phone", "message", "laptop", "still here")
        look()
        self.wait_for_devices(2)

        # Who is revoked is gone at once, and is told why when it comes again.
        phone = str(self.agent("phone", "status")["device_id"])
        self.operate("revoke", phone)
        self.wait_for_devices(1)
        again = machine.try_run(
            "abst", "--home", "/home/ada/phone", "realm", "add", address, user="ada"
        )
        self.assertEqual(1, again.returncode)
        self.operate("allow", phone)

        # What was backed up while it ran can be put back.
        machine.run("abst-realm", "backup", "/root/backup.tar")
        machine.run("systemctl", "stop", UNIT)
        machine.run("rm", "-r", STATE)
        machine.run("abst-realm", "restore", "/root/backup.tar", "--state", STATE)
        machine.run("systemctl", "start", UNIT)
        self.assertEqual(address, machine.run("cat", f"{STATE}/address").strip())
        self.wait_for_devices(2)

    def test_an_upgrade_keeps_state_and_devices(self) -> None:
        """As the news of the package have it: what was open says so in its configuration."""
        machine = self.machine
        if not any(BEFORE.glob("*.deb")):
            self.skipTest("there are no packages of the version before: git does not have it")
        machine.run("sh", "-c", "dpkg --install /mnt/before/*.deb")
        address = machine.run("cat", f"{STATE}/address").strip()
        self.make_devices(address, address)
        self.wait_for_devices(2)
        self.agent("phone", "group", "create", "home")
        self.agent("phone", "group", "give", "home", "laptop")
        self.agent("phone", "kv", "home", "set", "colour", "green")

        self.write("/etc/abst/realm.toml", 'access = "open"\n')
        process_id = machine.show(UNIT, "MainPID")
        self.install()
        self.assertNotEqual(process_id, machine.show(UNIT, "MainPID"))
        self.assertEqual(address, machine.run("cat", f"{STATE}/address").strip())
        self.wait_for_devices(2)
        self.agent("laptop", "message", "phone", "after the upgrade")
        self.assertIn("green", machine.run(*ABST_LAPTOP, "kv", "home", "get", "colour", user="ada"))

        # Without that word the realm is for invited devices, and says so to those that come.
        self.write("/etc/abst/realm.toml", "")
        machine.run("systemctl", "reload", UNIT)
        self.wait_for_devices(0)
        codes = {entry.get("ABST_CODE") for entry in self.journal()}
        self.assertIn("not_invited", codes)
        for device in ("phone", "laptop"):
            self.operate("allow", str(self.agent(device, "status")["device_id"]))

    def test_a_certificate_is_renewed_and_nobody_is_lost(self) -> None:
        """As the guide has it: whoever renews it copies it for the realm, and reloads."""
        machine = self.machine
        self.install()
        fetch = "import ssl; print(ssl.get_server_certificate(('127.0.0.1', 42278)))"
        folder = "/etc/abst/certificate"
        machine.run("install", "--directory", "--owner=_abst", "--mode=700", folder)
        settings = f'certificate = "{folder}/fullchain.pem"\nkey = "{folder}/privkey.pem"\n'
        look = None
        for name in ("old", "new"):
            (self.folder / name).mkdir()
            key = ec.generate_private_key(ec.SECP256R1())
            files = write_certificate(self.folder / name, key)
            for file in files:
                source = f"/mnt/{name}/{file.name}"
                machine.run("install", "--owner=_abst", "--mode=400", source, folder)
            if look is None:
                self.write("/etc/abst/realm.toml", settings)
                machine.run("systemctl", "restart", UNIT)
                look = self.lose_nobody()
            else:
                machine.run("systemctl", "reload", UNIT)
            shown = machine.run("python3", "-c", fetch)
            self.assertIn(shown.strip(), files[0].read_text("ascii"))
        assert look is not None
        look()

    def test_what_the_packages_bring_beside_the_realm(self) -> None:
        machine = self.machine
        self.install()
        self.assertIn("Usage: abst", machine.run("abst", "--help"))
        for service in ("abst-realm", "abst-device"):
            self.assertIn("Usage:", machine.run("twistd3", service, "--help"))
        for program in ("abst", "abst-realm"):
            completion = f"/usr/share/bash-completion/completions/{program}"
            machine.run("bash", "-c", f". {completion} && complete -p {program}")
        machine.run("systemd-analyze", "verify", "--man=no", UNIT)

        # What autopkgtest tries where a systemd runs.
        shutil.copy(ROOT / "debian" / "tests" / "service", self.folder)
        machine.run("env", "AUTOPKGTEST_TMP=/root", "sh", "/mnt/service")

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
