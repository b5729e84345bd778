"""The tests.

Hypothesis times nothing: how long an example takes depends on the machine. It looks at 50 examples
where a test says nothing else, since all tests together have ten minutes; ``ABST_EXAMPLES`` in the
environment is for who has more time. For the same reason ``make test`` leaves whole runs of the
demonstration and of the benchmarks to ``make test-tools``.
"""

import os

from hypothesis import settings

settings.register_profile(
    "abst", deadline=None, max_examples=int(os.environ.get("ABST_EXAMPLES", "50"))
)
settings.load_profile("abst")

TOOLS_SKIP = (
    None if os.environ.get("ABST_TOOL_TESTS") == "1" else "'make test-tools' runs whole programs"
)
"""Why a test of a whole run of a tool is skipped, or None."""
