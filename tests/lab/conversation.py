"""Numbered messages, both ways all along: what arrives, in which order, and the longest silence."""

from __future__ import annotations

import itertools
import json
import threading
import time
from types import TracebackType
from typing import Self

from tests.lab.devices import (
    ANSWER_SECONDS,
    ARRIVAL_SECONDS,
    LabDevice,
    Question,
    end_quietly,
    seconds_until,
)

EVERY_SECONDS = 0.1
PROMPT_SECONDS = 0.25
SUSPENDED_SECONDS = 300.0
TALKS = itertools.count(1)


class Way:
    """Numbered messages one way, as one device sends them and the other hears them.

    Attributes:
        taken: how many the sender's agent has taken, so that they have to arrive.
        arrivals: when each arrived, and its number.
        late: why messages were not delivered at once.
        problems: what went wrong with sending.
    """

    def __init__(self, label: str, sender: LabDevice, receiver: LabDevice) -> None:
        self._label = label
        self.sender = sender
        self.receiver = receiver
        self.taken = 0
        self.arrivals: list[tuple[float, int]] = []
        self.late: list[str] = []
        self.problems: list[str] = []
        self._unanswered: list[Question] = []
        self._ended = threading.Event()
        self._listening = receiver.start("listen", "--json")
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._hear, self._send)
        ]
        heard = self._listening.stdout
        assert heard is not None
        assert json.loads(heard.readline())["kind"] == "listening"

    def begin(self) -> None:
        """Send and hear from now on."""
        for thread in self._threads:
            thread.start()

    def end_sending(self) -> None:
        """Send no more."""
        self._ended.set()
        self._threads[1].join(4 * ANSWER_SECONDS)
        if self._threads[1].is_alive():
            self.problems.append(f"{self}: the sender has not come to an end")

    def end_hearing(self) -> None:
        """Listen no more."""
        if self._listening.poll() is None:
            self._listening.kill()
        self._threads[0].join(ANSWER_SECONDS)
        end_quietly(self._listening)

    def __str__(self) -> str:
        return f"{self.sender.name} to {self.receiver.name}"

    @property
    def numbers(self) -> list[int]:
        """The numbers that have arrived, in that order."""
        return [number for _, number in self.arrivals]

    @property
    def longest_silence_seconds(self) -> float:
        """The longest time between two arrivals."""
        times = [when for when, _ in self.arrivals]
        return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)

    def seconds_after(self, moment: float) -> float:
        """Return how long after a moment the next message arrived."""
        return next((when - moment for when, _ in list(self.arrivals) if when > moment), 1e9)

    def recorded(self) -> list[int]:
        """Return the numbers in the receiver's inbox."""
        words = (text.split() for text in self.receiver.messages())
        return [int(word[1]) for word in words if word[0] == self._label]

    def _hear(self) -> None:
        heard = self._listening.stdout
        assert heard is not None
        for line in heard:
            label, _, number = json.loads(line).get("text", "").partition(" ")
            if label == self._label:
                self.arrivals.append((time.monotonic(), int(number)))

    def _send(self) -> None:
        due = time.monotonic()
        try:
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                self._send_one()
                due = max(due + EVERY_SECONDS, time.monotonic())
            while self._unanswered:
                if not self._is_answered(self._unanswered.pop(), ANSWER_SECONDS):
                    self.problems.append(f"{self}: the agent has not answered")
        except Exception as problem:  # A thread's problem is told to the test, whatever it is.
            self.problems.append(f"{self}: {problem!r}")

    def _send_one(self) -> None:
        """Send a message, and wait until it stands in the sender's outbox or has arrived."""
        text = f"{self._label} {self.taken}"
        question = self.sender.begin("message", peer=self.receiver.name, text=text)
        while not self._is_answered(question, PROMPT_SECONDS):
            if self._is_waiting(text):
                self._unanswered.append(question)
                break
        self.taken += 1
        self._unanswered = [
            waiting for waiting in self._unanswered if not self._is_answered(waiting, 0.0)
        ]

    def _is_waiting(self, text: str) -> bool:
        """Tell whether a message stands in the sender's outbox; a suspended agent answers late."""
        with self.sender.begin("outbox") as question:
            answer = question.answer(SUSPENDED_SECONDS)
        if answer is None or "error" in answer:
            raise AssertionError(f"the outbox is not told: {answer}")
        return any(item["text"] == text for item in answer["result"]["items"])

    def _is_answered(self, question: Question, within_seconds: float) -> bool:
        """Tell whether the agent has said what became of a message; then the question is closed."""
        answer = question.answer(within_seconds)
        if answer is None:
            return False
        question.close()
        if "error" in answer:
            self.problems.append(f"{self}: {answer['error']}")
        elif not answer["result"]["delivered"]:
            self.late.append(str(answer["result"]["reason"]))
        return True


class Talk:
    """Two devices that send each other numbered messages until the ``with`` ends.

    Attributes:
        ways: from the first to the second, and back.
    """

    def __init__(self, first: LabDevice, second: LabDevice) -> None:
        label = f"talk-{next(TALKS)}"
        self.ways = [Way(label, first, second), Way(label, second, first)]

    def __enter__(self) -> Self:
        for way in self.ways:
            way.begin()
        seconds_until(lambda: all(way.arrivals for way in self.ways), "both hear each other")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            for way in self.ways:
                way.end_sending()
            if error is None:
                self._wait_for_the_rest()
        finally:
            for way in self.ways:
                way.end_hearing()

    def comeback_seconds(self, moment: float, within_seconds: float = 120.0) -> float:
        """Wait until both have heard each other after a moment; return how long that took."""

        def slower() -> float:
            return max(way.seconds_after(moment) for way in self.ways)

        seconds_until(lambda: slower() < 1e9, "both hear each other again", within_seconds)
        return slower()

    @property
    def longest_silence_seconds(self) -> float:
        """The longest time in which one of them heard nothing."""
        return max(way.longest_silence_seconds for way in self.ways)

    @property
    def counts(self) -> str:
        """How many messages there were, each way."""
        return " + ".join(str(way.taken) for way in self.ways)

    def _wait_for_the_rest(self) -> None:
        """Wait for what is still on its way; then everything has to be there once, in order."""
        for way in self.ways:
            everything = list(range(way.taken))
            seconds_until(
                lambda way=way: len(way.arrivals) >= way.taken,  # type: ignore[misc]
                f"all {way.taken} messages from {way}",
                ARRIVAL_SECONDS,
            )
            if way.numbers != everything or way.recorded() != everything:
                raise AssertionError(f"{way}: {way.taken} were sent, these arrived: {way.numbers}")
            if way.problems:
                raise AssertionError("\n".join(way.problems))
