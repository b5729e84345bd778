"""The limit of open files."""

from __future__ import annotations

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from abst.open_files import allow_open_files


class OpenFilesTests(SynchronousTestCase):
    def test_the_limit_is_raised_and_never_lowered(self) -> None:
        try:
            import resource
        except ImportError:
            raise SkipTest("this system has no such limits") from None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        allow_open_files(300)
        self.assertEqual((300, hard), resource.getrlimit(resource.RLIMIT_NOFILE))
        allow_open_files(100)
        self.assertEqual((300, hard), resource.getrlimit(resource.RLIMIT_NOFILE))
        allow_open_files(10**12)
        now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertTrue(now == hard or now == 10**12 or hard == resource.RLIM_INFINITY)
