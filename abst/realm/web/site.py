"""The web site of a realm: /metrics, /status and the page, for whoever its place lets in.

Owns what is answered to whom, and the headers. It only shows: there is nothing to send to it, so
every other method is refused, and what comes behind a request's head is thrown away.
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Callable, Container
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.protocols.policies import WrappingFactory
from twisted.web.http import NOT_ALLOWED, NOT_FOUND, HTTPChannel
from twisted.web.http import Request as AnyRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from abst.realm.web.metrics import CONTENT_TYPE, Metrics
from abst.realm.web.page import render
from abst.realm.web.status import status
from abst.realm.web.watch import LOOK_SECONDS, Watch

CONNECTIONS: Final = 64
REQUEST_SECONDS: Final = 60.0
"""How long a connection may last before its request has come whole."""

MISDIRECTED: Final = 421

HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

HEADERS: Final = {
    "Server": "ABST",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_FILES: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Root(Resource):
    """What has a path here, and a sentence for everything else."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return what answers for a path that has nothing of its own."""
        return _Nothing()


class _Nothing(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return _say(request, NOT_FOUND, "There is /, /status and /metrics.")


class Shown(Root):
    """Something that can be looked at.

    Args:
        kind: its content type.
        content: returns it; it is asked at most once a second, however many look.
        now: returns the time.
    """

    def __init__(
        self, kind: str, content: Callable[[], bytes], now: Callable[[], float] | None = None
    ) -> None:
        super().__init__()
        self._kind = kind
        self._content = content
        self._now = now
        self._last = b""
        self._asked_at = -math.inf

    def render_GET(self, request: Request) -> bytes:
        """Answer with it."""
        return self._answer(request)

    def render_HEAD(self, request: Request) -> bytes:
        """Answer with what would be said of it."""
        self._answer(request)
        return b""

    def _answer(self, request: Request) -> bytes:
        now = math.inf if self._now is None else self._now()
        if abs(now - self._asked_at) >= LOOK_SECONDS:
            self._last, self._asked_at = self._content(), now
        request.setHeader("Content-Type", self._kind)
        request.setHeader("Content-Length", str(len(self._last)))
        return self._last


class ShownRequest(Request):
    """A request that may only look."""

    site: RealmSite

    def gotLength(self, length: int | None) -> None:
        """Make room for no body, however long one is promised to be."""
        super().gotLength(0)

    def handleContentChunk(self, data: bytes) -> None:
        """Throw away what comes of one."""

    def render(self, resrc: IResource) -> None:
        """Answer, when the request is one that may be answered."""
        for name, value in HEADERS.items():
            self.setHeader(name, value)
        if self.method not in (b"GET", b"HEAD"):
            self.setHeader("Allow", "GET, HEAD")
            body = _say(self, NOT_ALLOWED, "Here is only to be looked.")
        elif not self._is_for_us():
            body = _say(
                self,
                MISDIRECTED,
                "This is not shown under that name. Use the address itself, or localhost, or set "
                "'host' in the realm's configuration to the name.",
            )
        else:
            super().render(resrc)
            return
        self.setHeader("Content-Length", str(len(body)))
        self.write(body)
        self.finish()

    def _is_for_us(self) -> bool:
        """Tell whether the browser has asked for a name that is ours.

        A page of anybody's can have its own name lead to this machine, and look around here with
        the browser of whoever visits it: but then the browser sends that name.
        """
        if self.site.host is None:
            return True
        names = {"localhost", self.site.host().lower().rstrip(".")} - {""}
        hosts = self.requestHeaders.getRawHeaders("host") or []
        return len(hosts) == 1 and is_ours(hosts[0], names)


class OneRequest(HTTPChannel):
    """A connection for one request.

    Many that come at once would be answered at once, and devices would wait meanwhile.
    """

    def checkPersistence(  # noqa: N802 (Twisted's name)
        self, request: AnyRequest, version: bytes
    ) -> bool:
        """Say that the connection ends with the answer."""
        request.responseHeaders.setRawHeaders("Connection", ["close"])
        return False

    def resetTimeout(self) -> None:  # noqa: N802 (Twisted's name)
        """Give no more time: whoever sends byte by byte would keep others out for days."""


class RealmSite(Site):
    """The site.

    Args:
        root: what it shows.
        host: returns under which name, beside IP addresses and localhost; None: under any, since
            browsers do not get to it by themselves.
    """

    displayTracebacks = False
    protocol = OneRequest  # type: ignore[assignment]
    requestFactory = ShownRequest
    noisy = False

    def __init__(self, root: Root, host: Callable[[], str] | None) -> None:
        super().__init__(root, timeout=REQUEST_SECONDS)
        self.host = host

    def log(self, request: object) -> None:
        """Write nothing: who looks, and how often, is nobody's business."""


class FewConnections(WrappingFactory):
    """Takes so many connections at once, and no more."""

    noisy = False

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of a new connection, or None to end it."""
        return None if len(self.protocols) >= CONNECTIONS else super().buildProtocol(addr)

    def end(self) -> None:
        """End all connections that are left."""
        for protocol in tuple(self.protocols):
            protocol.loseConnection()


def realm_site(
    watch: Watch,
    now: Callable[[], float],
    host: Callable[[], str],
    *,
    blurs: bool,
    is_socket: bool,
) -> FewConnections:
    """Return the site of a realm.

    Args:
        watch: what measures the realm.
        now: returns the time on the realm's clock.
        host: returns the name that devices use for it, or "".
        blurs: whether addresses of devices are blurred.
        is_socket: whether it is reached by a Unix socket.
    """
    template = _file("page.html").decode("utf-8")

    def current() -> dict[str, Any]:
        return status(watch, now(), blurs=blurs)

    root = Root()
    root.putChild(b"", Shown(HTML, lambda: render(template, current(), host()).encode(), now))
    as_json = Shown(JSON, lambda: _as_json(current()), now)
    root.putChild(b"status", as_json)
    root.putChild(b"status.json", as_json)
    root.putChild(b"metrics", Shown(CONTENT_TYPE, Metrics(watch).text, now))
    for name, kind in _FILES.items():
        root.putChild(name.encode(), Shown(kind, _file(name).__bytes__))
    return FewConnections(RealmSite(root, None if is_socket else host))


def is_ours(host: str, names: Container[str]) -> bool:
    """Tell whether a Host header is an IP address, or one of the names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.rstrip(".") in names
    return True


def _file(name: str) -> bytes:
    return (files("abst.realm.web") / name).read_bytes()


def _as_json(found: dict[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def _say(request: Request, code: int, sentence: str) -> bytes:
    request.setResponseCode(code, b"Misdirected Request" if code == MISDIRECTED else None)
    request.setHeader("Content-Type", TEXT)
    return f"{sentence}\n".encode()
