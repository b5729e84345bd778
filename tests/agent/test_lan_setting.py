"""How an owner says in a word how the local network is used."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.agent.lan_setting import LanSetting
from abst.errors import AbstError


class LanSettingTests(TestCase):
    def test_what_people_say(self) -> None:
        for text, expected in (
            ("on", LanSetting()),
            (" Off ", LanSetting(is_on=False)),
            ("4242", LanSetting(port=4242)),
            ("192.0.2.7", LanSetting(interface="192.0.2.7")),
            ("192.0.2.7:4242", LanSetting(interface="192.0.2.7", port=4242)),
            ("fd00::7", LanSetting(interface="fd00::7")),
            ("[fd00::7]:4242", LanSetting(interface="fd00::7", port=4242)),
        ):
            self.assertEqual(expected, LanSetting.parse(text), text)
            self.assertEqual(expected, LanSetting.parse(str(expected)))

    def test_what_means_nothing_is_refused(self) -> None:
        for text in (
            "",
            "maybe",
            "65536",
            "-1",
            "192.0.2.7:65536",
            "phone.local",
            "192.0.2:1:2",
            ":",
        ):
            with self.assertRaises(AbstError, msg=text):
                LanSetting.parse(text)

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            found = LanSetting.parse(text)
        except AbstError:
            return
        self.assertEqual(found, LanSetting.parse(str(found)))
