"""The limit of open files."""

from __future__ import annotations

import os

from twisted.trial.unittest import SkipTest, SynchronousTestCase

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

from abst.open_files import allow_open_files, files_are_scarce


class OpenFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        if resource is None:
            raise SkipTest("this system has no such limits")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def test_the_limit_is_raised_and_never_lowered(self) -> None:
        assert resource is not None
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        allow_open_files(300)
        self.assertEqual((300, hard), resource.getrlimit(resource.RLIMIT_NOFILE))
        allow_open_files(100)
        self.assertEqual((300, hard), resource.getrlimit(resource.RLIMIT_NOFILE))
        allow_open_files(10**12)
        now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertTrue(now == hard or now == 10**12 or hard == resource.RLIM_INFINITY)

    def test_files_become_scarce_before_there_are_none(self) -> None:
        assert resource is not None
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with open(os.devnull) as file:
            number = file.fileno()
        for limit, is_scarce in ((number + 11, False), (number + 10, True), (number, True)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            self.assertEqual(is_scarce, files_are_scarce(10), limit)
