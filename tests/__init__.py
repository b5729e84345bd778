"""The tests. Hypothesis times nothing: how long an example takes depends on the machine."""

from hypothesis import settings

settings.register_profile("abst", deadline=None)
settings.load_profile("abst")
