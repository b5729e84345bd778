"""Device IDs: made from a key, written and read back, and nothing else taken for one."""

import hashlib
import uuid

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.device_id import DeviceID, is_device_id, raw_public_key, subject_public_key_info

ALICE = DeviceID.of_key(b"alice")


class DerivationTests(TestCase):
    @given(key=st.binary(max_size=60))
    def test_an_id_is_the_hash_with_version_and_variant(self, key: bytes) -> None:
        """122 of the first 128 bits of the hash remain; 6 say that it is a UUID of version 8."""
        found = DeviceID.of_key(key)
        written = uuid.UUID(bytes=bytes(found))
        self.assertEqual((8, uuid.RFC_4122), (written.version, written.variant))
        digest = int.from_bytes(hashlib.sha256(key).digest()[:16], "big")
        fixed = 0xF << 76 | 0b11 << 62
        self.assertEqual(digest & ~fixed, int.from_bytes(found, "big") & ~fixed)

    @given(raw=st.binary(min_size=32, max_size=32))
    def test_a_raw_key_goes_into_der_and_back(self, raw: bytes) -> None:
        whole = subject_public_key_info(raw)
        self.assertEqual((44, raw), (len(whole), raw_public_key(whole)))

    def test_an_id_is_its_bytes(self) -> None:
        self.assertEqual(bytes(ALICE), ALICE)
        self.assertEqual({bytes(ALICE): 1}, {ALICE: 1})
        self.assertEqual(16, len(ALICE))

    def test_other_bytes_are_no_id(self) -> None:
        wrong = [
            *(b"", bytes(16), ALICE[:15], ALICE + b"\0", uuid.uuid4().bytes),
            ALICE[:6] + b"\x7f" + ALICE[7:],
            ALICE[:6] + b"\x90" + ALICE[7:],
            ALICE[:8] + b"\x7f" + ALICE[9:],
            ALICE[:8] + b"\xc0" + ALICE[9:],
        ]
        for value in wrong:
            self.assertFalse(is_device_id(value), value)
            self.assertRaises(ValueError, DeviceID, value)

    def test_only_bytes_are_an_id(self) -> None:
        for value in (None, str(ALICE), 8, list(ALICE), bytearray(ALICE)):
            self.assertFalse(is_device_id(value), value)


class TextTests(TestCase):
    @given(key=st.binary(max_size=8))
    def test_what_is_written_is_read_back(self, key: bytes) -> None:
        found = DeviceID.of_key(key)
        self.assertEqual(found, DeviceID.parse(str(found)))
        self.assertEqual(found, DeviceID.parse(f" {str(found).upper()}\n"))
        self.assertEqual(f"DeviceID({str(found)!r})", repr(found))
        self.assertTrue(str(found).startswith(found.short))

    def test_other_texts_are_refused(self) -> None:
        """Python's own UUID takes every one of the second line, and reads other IDs into some."""
        text = str(ALICE)
        wrong = ["", "x", text[:-1], text + "0", str(uuid.uuid4()), text.replace("-8", "-4", 1)]
        wrong += [
            text.replace("-", ""),
            f"{{{text}}}",
            f"urn:uuid:{text}",
            text[:3] + "_" + text[4:],
        ]
        wrong += ["\N{FULLWIDTH DIGIT ONE}" + text[1:], "+" + text[1:], text.replace("-", " ")]
        for written in wrong:
            error = self.assertRaises(ValueError, DeviceID.parse, written)
            self.assertIn("is no device ID", str(error))

    def test_a_long_text_is_not_repeated_whole(self) -> None:
        error = self.assertRaises(ValueError, DeviceID.parse, "x" * 100_000)
        self.assertLess(len(str(error)), 300)

    @given(text=st.text())
    def test_any_text_is_an_id_or_a_value_error(self, text: str) -> None:
        try:
            found = DeviceID.parse(text)
        except ValueError:
            return
        self.assertEqual(text.strip().lower(), str(found))
