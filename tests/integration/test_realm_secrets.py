"""What is left of a group at its realm: disk, log and memory hold nothing that is secret."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from unittest import SkipTest

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from abst.device.groups.keys import GroupKeys, derive
from abst.identity import Identity
from abst.packets import JoinGroup
from abst.realm.state_folder import STORE_FILE
from tests.integration.group_devices import GroupDevice, GroupDevicesTestCase
from tests.integration.raw_client import RawDevice

DEBUGGED: Final = (
    *(sys.executable, "-m", "twisted", "--log-format=text", "--log-level=debug"),
    "abst-realm",
)

MARK: Final = os.urandom(10).hex().encode()
"""Stands in every name, value and message, so that it suffices to look for it alone."""


def forms(secret: bytes) -> Iterator[bytes]:
    """Yield what bytes look like, raw and encoded, wherever in something encoded they begin."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):
        # Only characters that no neighbour has a part in.
        padded = bytes(shift) + secret
        whole = base64.b64encode(padded[: len(padded) // 3 * 3])[4 if shift else 0 :]
        yield whole
        if whole != (for_urls := whole.replace(b"+", b"-").replace(b"/", b"_")):
            yield for_urls


def found_in(places: Iterable[tuple[str, bytes]], secrets: Mapping[str, bytes]) -> list[str]:
    """Return where which secrets stand, in whatever form."""
    wanted = [(what, form) for what, secret in secrets.items() for form in forms(secret)]
    return [f"{what} in {where}" for where, data in places for what, form in wanted if form in data]


def memory_of(process: int) -> Iterator[tuple[str, bytes]]:
    """Yield what a process has written in its memory (proc(5)): all but the text of programs.

    Raises:
        SkipTest: the system does not let this process see it.
    """
    try:
        memory = os.open(f"/proc/{process}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SkipTest(f"the memory of another process cannot be read: {error}") from None
    try:
        for line in Path(f"/proc/{process}/maps").read_text("utf-8").splitlines():
            where, permissions, _, _, inode, *_ = line.split()
            if not permissions.startswith("r") or (inode != "0" and "w" not in permissions):
                continue
            begin, end = (int(address, 16) for address in where.split("-"))
            try:
                yield f"memory {where}", os.pread(memory, end - begin, begin)
            except (OSError, OverflowError):
                continue  # What the kernel keeps there for itself.
    finally:
        os.close(memory)


def files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the contents of all files in a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.read_bytes()


def group_secrets(keys: GroupKeys) -> dict[str, bytes]:
    """Return what only members may know of a group in epoch 1."""
    found = {"a name, a value or a message": MARK, "the name key": keys.name_key}
    for epoch in range(2):
        found[f"seed {epoch}"] = keys.seeds[epoch]
        found[f"message key {epoch}"] = keys.message_key(epoch)
        found[f"value key {epoch}"] = keys.value_key(epoch)
    return found


def stream_key(keys: GroupKeys, stream: int, device_id: bytes) -> bytes:
    """Return the key of what a device says in epoch 1 (spec: groups.md, "Inside a message")."""
    info = b"ABST group stream 1" + device_id
    return derive(keys.message_key(1), stream.to_bytes(8, "big"), info)


class FormsTests(SynchronousTestCase):
    """The search finds what it is for."""

    def test_a_secret_is_found_in_every_form_and_place(self) -> None:
        for secret in (b"the secret of the house", bytes(range(235, 256)) + bytes(11)):
            for before in range(4):
                plain = b"\xff" * before + secret + b"behind"
                for data in (
                    plain,
                    plain.hex().encode(),
                    plain.hex().upper().encode(),
                    base64.b64encode(plain),
                    base64.urlsafe_b64encode(plain),
                ):
                    self.assertTrue(found_in([("here", data)], {"it": secret}), data)
            self.assertEqual([], found_in([("here", secret[1:])], {"it": secret}))


class RealmSecretsTests(GroupDevicesTestCase):
    """A session with known names, values and messages, and what is left of it at the realm."""

    timeout = 60
    realm_command = DEBUGGED

    async def test_disk_log_and_memory_hold_nothing_secret(self) -> None:
        await self.start_realm()
        members = await self.house(*(f"{name} {MARK.decode()}" for name in ("a", "b", "c", "d")))
        await self.make_group(*members, name=f"family {MARK.decode()}")
        await self.live(members)
        await deferToThread(self.join_with_a_wrong_proof)

        memory = list(memory_of(self.realm.process.pid))
        files = list(files_in(self.state_folder))
        self.assertIn(f"{STORE_FILE}-wal", dict(files))
        for member in members:
            await member.stop()
        self.realm.terminate()
        left = list(files_in(self.state_folder))
        log = [("the log", self.realm.output.text.encode())]

        (saved,) = members[0].kept()
        keys = GroupKeys(saved.seeds)
        secrets = {
            **group_secrets(keys),
            "the key of a stream": stream_key(keys, saved.stream, members[0].device_id),
        }
        for member in members:
            key = member.identity.private_key.private_bytes_raw()
            secrets[f"the key of {member.name}"] = key
        self.assertEqual([], found_in([*memory, *files, *left, *log], secrets))

        # What it has to know is found.
        name = keys.hidden_name(b"door " + MARK)
        (sealed,) = [value.sealed for value in saved.values if value.hidden_name == name]
        assert sealed is not None
        self.assertTrue(found_in(memory, {"a device's ID": bytes(members[0].device_id)}))
        self.assertTrue(found_in(memory, {"a value's name, hidden": name}))
        for places in (files, left):
            self.assertTrue(found_in(places, {"a value's name, hidden": name}))
            self.assertTrue(found_in(places, {"a sealed value": sealed}))
        self.assertTrue(found_in(log, {"its address": str(self.address).encode()}))

    async def live(self, members: list[GroupDevice]) -> None:
        """Do what there is to be done in a group."""
        one, two, three, four = (self.group(member) for member in members)
        await one.values.set(b"light " + MARK, b"on " + MARK)
        await two.values.set(b"light " + MARK, b"off " + MARK, seconds=3600)
        await two.values.set(b"old " + MARK, b"gone " + MARK)
        await three.values.delete(b"old " + MARK)
        three.send(b"hello " + MARK + b" 0")
        await one.remove(four.device_id)
        here = members[:3]
        await self.until(lambda: self.all_here(here), "the others are in the next epoch")
        await one.values.set(b"door " + MARK, b"1234 " + MARK)
        one.send(b"welcome " + MARK + b" 0")
        one.rename("house " + MARK.decode())
        found = await two.values.get(b"door " + MARK)
        assert found is not None
        self.assertEqual(b"1234 " + MARK, found.value)
        await self.until(lambda: one.device_id in members[1].heard, "a message is heard")

    def join_with_a_wrong_proof(self) -> None:
        """Do something that the realm refuses and counts."""
        with RawDevice(self.address.port, Identity.generate()) as raw:
            raw.hello()
            raw.send(JoinGroup(self.group_id, 1, bytes(64)))
            self.assertEqual("wrong_proof", raw.receive_error().code)
