"""Events as Twisted's loggers make them, collected."""

from __future__ import annotations

from typing import Any

from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface import implementer


@implementer(ILogObserver)
class Collected(list[LogEvent]):
    """An observer that keeps the events."""

    def __call__(self, event: LogEvent) -> None:
        self.append(event)

    def logger(self) -> Logger:
        """Return a logger whose events are kept."""
        return Logger(namespace="abst.realm", observer=self)


def logged(text: str, **values: Any) -> LogEvent:
    """Return the event of something that is logged."""
    events = Collected()
    events.logger().info(text, **values)
    (event,) = events
    return event


def failed(text: str, error: Exception) -> LogEvent:
    """Return the event of something that failed."""
    events = Collected()
    logger = events.logger()
    try:
        raise error
    except type(error):
        logger.failure(text)
    (event,) = events
    return event
