"""Finding what a person means: by name, by ID, and never one of several."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from abst.device.finding import find_one
from abst.device_id import DeviceID
from abst.errors import AbstError, GroupError

FIRST = DeviceID.parse("6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819")
SECOND = DeviceID.parse("6fa1b3c2-11de-8f11-a2b3-c4d5e6f70819")
THIRD = DeviceID.parse("00000000-11de-8f11-a2b3-c4d5e6f70819")
THINGS = [
    (FIRST, ("laptop", "Ann's laptop"), 1),
    (SECOND, ("Laptop",), 2),
    (THIRD, ("phone", ""), 3),
]


def find(text: str, error: type[AbstError] = AbstError) -> int:
    return find_one(text, THINGS, what="peer", otherwise="nobody", error=error)


class FindingTests(TestCase):
    def test_what_is_meant(self) -> None:
        for text, expected in (
            ("laptop", 1),
            (" Laptop ", 2),
            ("Ann's laptop", 1),
            ("ANN'S LAPTOP", 1),
            ("PHONE", 3),
            (str(FIRST).upper(), 1),
            ("6FA1B3C2-9", 1),
            ("0000", 3),
        ):
            self.assertEqual(expected, find(text), text)

    def test_several_are_named_by_their_ids(self) -> None:
        for text in ("LAPTOP", "6fa1"):
            error = self.assertRaises(AbstError, find, text)
            listed = f"{FIRST}, {SECOND}"
            self.assertEqual(
                f"{text!r} means several peers, name one by its ID: {listed}", str(error)
            )

    def test_nothing_is_meant(self) -> None:
        for text in ("tablet", "6fa", "000", "-11de", "", " "):
            error = self.assertRaises(GroupError, find, text, GroupError)
            self.assertEqual("nobody", str(error))
