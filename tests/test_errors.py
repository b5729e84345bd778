"""The table of wire codes, and what an error says to a person."""

import re

from twisted.trial.unittest import TestCase

from abst.errors import (
    MEANINGS,
    AbstError,
    AddressError,
    Code,
    ConfigurationError,
    IdentityError,
    LocalProtocolError,
    NotTrustedError,
    RealmRefusedError,
    RemoteProtocolError,
    SessionEndedError,
    WrongKeyError,
    explain,
)
from abst.packets import MAX_CODE_CHARACTERS, MAX_REASON_CHARACTERS, Error


class CodeTests(TestCase):
    def test_every_code_has_a_meaning(self) -> None:
        self.assertEqual(set(Code), set(MEANINGS))

    def test_codes_are_words(self) -> None:
        for code in Code:
            self.assertTrue(re.fullmatch("[a-z]+(_[a-z]+)*", code), code)
            self.assertEqual(code.name.lower(), code.value)

    def test_every_meaning_fits_its_packet(self) -> None:
        for code, meaning in MEANINGS.items():
            self.assertLessEqual(len(code), MAX_CODE_CHARACTERS)
            self.assertLessEqual(len(meaning.sentence), MAX_REASON_CHARACTERS)
            Error(str(code), meaning.sentence).to_map()

    def test_every_meaning_says_what_to_do(self) -> None:
        for code, meaning in MEANINGS.items():
            for words in (meaning.sentence, meaning.remedy):
                self.assertTrue(words, code)
                self.assertTrue(words.isprintable(), code)
                self.assertFalse(words.endswith("."), code)


class ExplainTests(TestCase):
    def test_every_code_is_explained_in_one_line(self) -> None:
        for code, meaning in MEANINGS.items():
            self.assertEqual(f"{meaning.sentence}; {meaning.remedy}", explain(code))

    def test_the_reason_is_added_when_it_says_more(self) -> None:
        meaning = MEANINGS[Code.MALFORMED]
        self.assertEqual(explain("malformed"), explain("malformed", meaning.sentence))
        self.assertIn(
            f"{meaning.sentence} (packet_id: missing);", explain("malformed", "packet_id: missing")
        )

    def test_a_newer_realms_code_is_shown_as_it_is(self) -> None:
        self.assertEqual("moved", explain("moved"))
        self.assertEqual("moved: try elsewhere", explain("moved", "try elsewhere"))


class ExceptionTests(TestCase):
    def test_every_exception_is_an_abst_error(self) -> None:
        errors = [
            RemoteProtocolError(Code.MALFORMED, "x"),
            LocalProtocolError("x"),
            RealmRefusedError("x"),
            IdentityError("x"),
            WrongKeyError("x", "y", "z"),
            AddressError("x"),
            ConfigurationError("x", None, "y"),
            NotTrustedError("x", theirs=True),
            SessionEndedError("x"),
        ]
        for error in errors:
            self.assertIsInstance(error, AbstError)
            self.assertTrue(str(error))

    def test_remote_protocol_errors_carry_the_code(self) -> None:
        error = RemoteProtocolError(Code.TOO_LARGE, "a packet has at most 5 bytes")
        self.assertIs(Code.TOO_LARGE, error.code)
        self.assertEqual("a packet has at most 5 bytes", error.reason)
        self.assertEqual("too_large: a packet has at most 5 bytes", str(error))

    def test_a_refusal_carries_what_the_realm_said(self) -> None:
        error = RealmRefusedError("realm_full", "full", 1.5, b"target")
        self.assertEqual(("realm_full", "full"), (error.code, error.reason))
        self.assertEqual((1.5, b"target"), (error.retry_after_seconds, error.target_device))
        self.assertEqual(explain("realm_full", "full"), str(error))

    def test_a_wrong_key_is_an_identity_error_that_names_both(self) -> None:
        error = WrongKeyError("the realm", "one", "two")
        self.assertIsInstance(error, IdentityError)
        self.assertEqual(("one", "two"), (error.expected, error.found))
        self.assertEqual(
            "the realm has another key than expected: wanted one, found two", str(error)
        )

    def test_a_configuration_error_names_file_key_and_reason(self) -> None:
        self.assertEqual("f: k.e: why", str(ConfigurationError("f", "k.e", "why")))
        self.assertEqual("f: why", str(ConfigurationError("f", None, "why")))

    def test_trust_is_refused_by_one_of_two(self) -> None:
        self.assertTrue(NotTrustedError("x", theirs=True).theirs)
        self.assertFalse(NotTrustedError("x", theirs=False).theirs)
