"""A realm that is killed again and again while values are put: what it has said is true.

``make soak`` runs more rounds (ABST_ROUNDS).
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter
from hashlib import sha256
from pathlib import Path

from twisted.trial.unittest import TestCase

from abst.packets import (
    CreateGroup,
    DeleteValue,
    GetValue,
    GroupEpoch,
    GroupMembers,
    JoinGroup,
    ListValues,
    Packet,
    PutValue,
    ValueChanges,
    ValueDeleted,
    ValueFound,
    ValuePut,
    WatchingValues,
    WatchValues,
)
from tests.integration.raw_client import RawDevice, identities
from tests.integration.realm_process import LOOPBACK, RealmProcess
from tests.realm.group_members import Keys

ROUNDS = int(os.environ.get("ABST_ROUNDS") or 3)
IN_FLIGHT = 100
NAMES = [sha256(b"%d" % number).digest() for number in range(50)]
CONFIG = """
[limits]
value_requests_per_second = 1000000
"""


class Ledger:
    """What the realm has said about a group, in all rounds.

    Attributes:
        changes: the name and the digest of each change that was told or listed, by revision.
        heads: the hash of the history at each revision.
        acknowledged: how many puts and deletions were.
    """

    def __init__(self) -> None:
        self.changes: dict[int, tuple[bytes, bytes]] = {}
        self.heads = {0: bytes(32)}
        self.acknowledged: Counter[str] = Counter()
        self.newest = 0

    def told(self, page: ValueChanges) -> None:
        """Take a change that a watcher was told."""
        for revision, name, digest, _ in page.changes:
            self.note(revision, name, digest)
        self.note_head(page.revision, page.head)

    def note(self, revision: int, name: bytes, digest: bytes) -> None:
        """Take a change; what has been said of it before must be the same."""
        assert self.changes.setdefault(revision, (name, digest)) == (name, digest), revision
        self.newest = max(self.newest, revision)

    def note_head(self, revision: int, head: bytes) -> None:
        """Take a hash; what has been said of it before must be the same."""
        assert self.heads.setdefault(revision, head) == head, revision

    def check(self, device: RawDevice, group: bytes) -> None:
        """List everything: nothing that was said is missing, and the hashes lead to the head."""
        since = 0
        listed: dict[int, tuple[bytes, bytes]] = {}
        while True:
            device.send(ListValues(group, since))
            page = device.receive()
            assert isinstance(page, ValueChanges), page
            assert page.floor is not None
            assert page.floor_head is not None
            for revision, name, digest, sealed in page.changes:
                assert sealed is None or sha256(sealed).digest() == digest
                listed[revision] = (name, digest)
                since = revision
            if not page.more:
                break
        self.note_head(page.floor, page.floor_head)
        head = page.floor_head
        for revision in range(page.floor + 1, page.revision + 1):
            name, digest = listed[revision]
            self.note(revision, name, digest)
            head = sha256(
                b"ABST change 1" + head + revision.to_bytes(8, "big") + name + digest
            ).digest()
            self.note_head(revision, head)
        assert head == page.head
        assert page.revision == self.newest, "a change that was told is gone"


class KilledRealmTests(TestCase):
    """One process after the other, on one state folder."""

    timeout = 60 + 10 * ROUNDS

    def test_what_was_acknowledged_is_there_after_every_kill(self) -> None:
        seed = int(os.environ.get("ABST_SOAK_SEED") or random.randrange(1_000_000))
        chance = random.Random(seed)
        ledger = Ledger()
        keys = Keys(b"killed")
        folder = Path(self.mktemp())
        try:
            for number in range(ROUNDS + 1):
                with RealmProcess(folder, "--listen", LOOPBACK, config=CONFIG) as realm:
                    device = self.join(realm, keys, create=not number)
                    with device:
                        ledger.check(device, keys.group)
                        if number < ROUNDS:
                            self.put_until_killed(realm, device, keys.group, ledger, chance)
                        else:
                            self.check_values(device, keys.group, ledger)
        except AssertionError as problem:
            raise AssertionError(f"ABST_SOAK_SEED={seed}: {problem}") from problem
        self.assertGreater(ledger.acknowledged["put"], 20 * ROUNDS)
        self.assertGreater(ledger.acknowledged["deleted"], 0)

    def join(self, realm: RealmProcess, keys: Keys, *, create: bool) -> RawDevice:
        (identity,) = identities(1)
        device = RawDevice(realm.port, identity)
        nonce = device.hello().nonce
        proof = keys.proof(nonce, device.device_id, 0)
        if create:
            device.send(CreateGroup(keys.group, 0, keys.public(0), proof))
            self.assertIsInstance(device.receive(), GroupEpoch)
        device.send(JoinGroup(keys.group, 0, proof))
        self.assertIsInstance(device.receive(), GroupMembers)
        return device

    def put_until_killed(
        self,
        realm: RealmProcess,
        device: RawDevice,
        group: bytes,
        ledger: Ledger,
        chance: random.Random,
    ) -> None:
        device.send(WatchValues(group))
        self.assertIsInstance(device.receive(), WatchingValues)
        asked: dict[int, Packet] = {}
        killer = threading.Timer(chance.uniform(0.05, 0.4), realm.process.kill)
        killer.start()
        try:
            for request in itertools.count(1):
                name = chance.choice(NAMES)
                packet: Packet = PutValue(
                    group, name, chance.randbytes(chance.choice((50, 3000))), request=request
                )
                if not chance.randrange(20):
                    packet = DeleteValue(group, name, b"deleted", request=request)
                asked[request] = packet
                device.send(packet)
                while len(asked) >= IN_FLIGHT:
                    self.take(device.receive(), asked, ledger)
        except (EOFError, OSError):
            pass  # It is dead, in the middle of something.
        killer.join()

    def take(self, answer: Packet, asked: dict[int, Packet], ledger: Ledger) -> None:
        if isinstance(answer, ValueChanges):
            ledger.told(answer)
            return
        assert isinstance(answer, (ValuePut, ValueDeleted)), answer
        assert answer.request is not None
        packet = asked.pop(answer.request)
        assert isinstance(packet, (PutValue, DeleteValue))
        if answer.revision:
            digest = sha256(packet.value).digest()
            # Who watches has been told before.
            assert ledger.changes[answer.revision] == (packet.name, digest)
            ledger.acknowledged["put" if isinstance(answer, ValuePut) else "deleted"] += 1

    def check_values(self, device: RawDevice, group: bytes, ledger: Ledger) -> None:
        """Get every name: each has the value that its last change says."""
        last = {
            name: (revision, digest) for revision, (name, digest) in sorted(ledger.changes.items())
        }
        for name, (revision, digest) in last.items():
            device.send(GetValue(group, name))
            found = device.receive()
            assert isinstance(found, ValueFound), found
            if found.revision:  # A deletion may be forgotten.
                assert found.value is not None
                digest = sha256(found.value).digest()
                self.assertEqual(revision, found.revision)
                self.assertEqual((name, digest), ledger.changes[revision])
