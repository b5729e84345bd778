"""The log of a realm or an agent: where it goes, and what stands in a line of it.

Twisted's events come in. Out goes one entry for each, to journald with fields that can be searched
for, or as lines of text or of JSON. Nothing in an event can make one entry look like two, no entry
is larger than a bound, and who takes entries too slowly loses some, which is said, rather than
keeping the reactor waiting.
"""

from abst.logs.entry import Level
from abst.logs.log import Log, LogFormat, open_log
from abst.logs.twistd import LoggingService, open_twistd_log

__all__ = ["Level", "Log", "LogFormat", "LoggingService", "open_log", "open_twistd_log"]
