"""The hash of a history, against the examples in tests/vectors/ and the words of the spec."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from abst.value_history import NO_HASH, next_head

VECTORS = Path(__file__).parent.parent.parent / "vectors" / "values.json"


class HistoryTests(SynchronousTestCase):
    def test_the_examples(self) -> None:
        entries = json.loads(VECTORS.read_text("utf-8"))["history"]
        self.assertEqual(NO_HASH.hex(), entries[0]["before"])
        for entry in entries:
            before, name = bytes.fromhex(entry["before"]), bytes.fromhex(entry["value_name"])
            sealed = entry["sealed"]
            digest = NO_HASH if sealed is None else sha256(bytes.fromhex(sealed)).digest()
            self.assertEqual(entry["hash"], digest.hex())
            head = next_head(before, entry["revision"], name, digest)
            self.assertEqual(entry["head"], head.hex(), entry["name"])
            number = entry["revision"].to_bytes(8, "big")
            plain = sha256(b"ABST change 1" + before + number + name + digest).digest()
            self.assertEqual(plain, head)
