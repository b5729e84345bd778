"""Debian's Chromium without a window, spoken to by its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

IN_ROOT: Final = Path(__file__).with_name("in-root")
PATIENCE_SECONDS: Final = 30.0
MAX_MESSAGE_BYTES: Final = 50_000_000

FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # It runs as root, and sees nothing but a page of ours.
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--user-data-dir=/tmp/profile",
    "--remote-debugging-pipe",
)


class Chromium:
    """A browser with one tab. A context manager that leaves nothing running.

    Args:
        root: the Debian root folder in which it is installed.

    Attributes:
        errors: what has been written to the tab's console as an error, or thrown there.
    """

    def __init__(self, root: Path) -> None:
        self._folder = tempfile.mkdtemp(prefix="abst-chromium-")
        commands, self._commands = os.pipe()
        self._events, events = os.pipe()
        # Chromium takes commands from descriptor 3 and answers on 4.
        start = f'exec "$@" 3<&{commands} 4>&{events} {commands}<&- {events}>&-'
        with (Path(self._folder) / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", start, "sh", IN_ROOT, root, self._folder, "chromium", *FLAGS],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(commands, events),
            )
        os.close(commands)
        os.close(events)
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        self._heard: list[dict[str, Any]] = []
        self._session: str | None = None
        self.errors: list[str] = []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Accessibility", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and remove what it has left."""
        for descriptor in (self._commands, self._events):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have it do something, and return what it answers."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda heard: heard.get("id") == number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        found: dict[str, Any] = answer["result"]
        return found

    def open(self, url: str, *, width: int, height: int, scheme: str, scripts: bool = True) -> None:
        """Load a page, as a screen of some size shows it, in light or dark."""
        self.errors.clear()
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        wanted = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=wanted)
        self._heard.clear()
        self.call("Page.navigate", url=url)
        self._wait(lambda heard: heard.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Return the first true value of an expression, which is asked again and again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := self.value(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"never so: {expression}")
            time.sleep(0.1)
        return value

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def names(self) -> list[tuple[str, str]]:
        """Return the role and the name of everything that a screen reader finds."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]

    def screenshot(self, path: Path) -> None:
        """Write the whole page to a PNG file."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _wait(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message of a kind; what comes before it is kept."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for heard in self._heard:
            if is_it(heard):
                self._heard.remove(heard)
                return heard
        while True:
            heard = self._read(deadline)
            self._note(heard)
            if is_it(heard):
                return heard
            if "id" not in heard:
                self._heard.append(heard)

    def _read(self, deadline: float) -> dict[str, Any]:
        while (end := self._buffer.find(b"\0")) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._events], [], [], left)[0]:
                raise AssertionError("Chromium does not answer")
            data = os.read(self._events, 65536)
            if not data or len(self._buffer) > MAX_MESSAGE_BYTES:
                raise AssertionError("Chromium has ended")
            self._buffer += data
        message: dict[str, Any] = json.loads(self._buffer[:end])
        del self._buffer[: end + 1]
        return message

    def _note(self, heard: dict[str, Any]) -> None:
        parameters = heard.get("params", {})
        match heard.get("method"):
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.errors.append(parameters["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert"):
                self.errors.append(str(parameters["args"]))
