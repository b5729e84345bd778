"""The tests.

Hypothesis times nothing: how long an example takes depends on the machine. It looks at 50 examples
where a test says nothing else, since all tests together have ten minutes; ``ABST_EXAMPLES`` in the
environment is for who has more time.
"""

import os

from hypothesis import settings

settings.register_profile(
    "abst", deadline=None, max_examples=int(os.environ.get("ABST_EXAMPLES", "50"))
)
settings.load_profile("abst")
