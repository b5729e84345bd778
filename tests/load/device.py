"""One device of a crowd: raw ABST over TLS on a socket that never blocks.

Keeps to the specification: says Hello in time, says it again as a heartbeat, gives up an answer
that does not come, and comes back after the waits of realm.md, "Coming back".
"""

from __future__ import annotations

import enum
import errno
import select
import socket
import ssl
from typing import TYPE_CHECKING

from abst import codec
from abst.device.backoff import Backoff
from abst.errors import MEANINGS, AbstError, Code
from abst.packets import MAX_VALUE_PACKET_BYTES, REALM_TO_DEVICE, BackHeartbeat, Error, Hello, Send
from abst.packets import parse as parse_packet

if TYPE_CHECKING:
    from tests.load.crowd import Crowd

ANSWER_SECONDS = 10.0
"""How long a device waits for the first answer (realm.md)."""

HEARTBEAT_SHARE = 0.9
"""A heartbeat comes a little sooner than it is due."""

READ_BYTES = 65536


class Stage(enum.Enum):
    """How far a device has come."""

    AWAY = "waits, and tries again"
    CONNECTING = "TCP handshake"
    SHAKING_HANDS = "TLS handshake"
    GREETING = "Hello is sent"
    HERE = "the realm has answered"


class LoadDevice:
    """A device.

    Args:
        crowd: where it belongs.
        device_id: what its certificate proves.
        context: shows its certificate.
        source: the address that it connects from.

    Attributes:
        stage: how far it has come.
        device_id: what its certificate proves.
        lost_at: when it last ceased to be here, or was started; None while it is here.
    """

    __slots__ = (
        "_backoff",
        "_context",
        "_crowd",
        "_decoder",
        "_hello",
        "_number",
        "_socket",
        "_source",
        "_try",
        "_unsent",
        "device_id",
        "lost_at",
        "stage",
    )

    def __init__(
        self, crowd: Crowd, device_id: bytes, context: ssl.SSLContext, source: str
    ) -> None:
        self.device_id = device_id
        self.stage = Stage.AWAY
        self.lost_at: float | None = None
        self._crowd = crowd
        self._context = context
        self._source = source
        self._backoff = Backoff(crowd.chance.random)
        self._hello = codec.encode(Hello(device_id, invitation=crowd.invitation))
        self._socket: ssl.SSLSocket | socket.socket | None = None
        self._number = -1
        self._try = 0
        self._unsent = b""
        self._decoder = codec.Decoder(MAX_VALUE_PACKET_BYTES)

    def connect(self) -> None:
        """Try to connect now."""
        crowd = self._crowd
        now = crowd.now()
        if self.lost_at is None:
            self.lost_at = now
        self._try += 1
        self._unsent = b""
        self._decoder = codec.Decoder(MAX_VALUE_PACKET_BYTES)
        plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            plain.bind((self._source, 0))
            problem = plain.connect_ex((crowd.host, crowd.port))
        except OSError as error:
            problem = error.errno or errno.EIO
        self._socket = plain
        if problem not in (0, errno.EINPROGRESS):
            self._lost(errno.errorcode.get(problem, "OSError"))
            return
        self.stage = Stage.CONNECTING
        self._number = plain.fileno()
        crowd.watch(self._number, self, select.EPOLLOUT)
        this_try = self._try
        crowd.call_at(now + ANSWER_SECONDS, lambda: self._give_up(this_try))

    def handle(self, events: int) -> None:
        """Do what the socket has become ready for."""
        try:
            if self.stage is Stage.CONNECTING:
                self._connected()
            elif self.stage is Stage.SHAKING_HANDS:
                self._shake_hands()
            else:
                if events & select.EPOLLOUT:
                    self._flush()
                if events & ~select.EPOLLOUT and self._socket is not None:
                    self._read()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except ssl.SSLError as problem:
            self._lost(problem.reason or "TLS")
        except OSError as problem:
            self._lost(errno.errorcode.get(problem.errno or 0, "OSError"))
        except AbstError as problem:
            self._lost(type(problem).__name__)

    def send(self, data: bytes) -> None:
        """Send packets; they are lost while the device is not here."""
        if self.stage is not Stage.HERE:
            return
        self._unsent += data
        try:
            self._flush()
        except OSError as problem:
            self._lost(errno.errorcode.get(problem.errno or 0, "OSError"))

    def cut(self) -> None:
        """Lose the connection, as when the network changes, and come back at once."""
        self._forget_socket()
        self.lost_at = self._crowd.now()
        self.connect()

    def _give_up(self, which_try: int) -> None:
        if which_try == self._try and self.stage not in (Stage.HERE, Stage.AWAY):
            self._lost(f"late: {self.stage.name}")

    def _connected(self) -> None:
        assert self._socket is not None
        problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, "connect")
        assert not isinstance(self._socket, ssl.SSLSocket)
        self._socket = self._context.wrap_socket(self._socket, do_handshake_on_connect=False)
        self.stage = Stage.SHAKING_HANDS
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._crowd.watch(self._number, self, select.EPOLLIN)
            return
        self.stage = Stage.GREETING
        self._unsent += self._hello
        self._crowd.watch(self._number, self, select.EPOLLIN)
        self._flush()

    def _flush(self) -> None:
        assert self._socket is not None
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        self._crowd.watch(self._number, self, wanted)

    def _read(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(READ_BYTES)
        if not data:
            self._lost("closed")
            return
        self._decoder.receive_data(data)
        while self.stage is not Stage.AWAY and (found := self._decoder.next_map()) is not None:
            match parse_packet(found, REALM_TO_DEVICE):
                case BackHeartbeat() as answer:
                    self._answered(answer.heartbeat_seconds)
                case Send() as packet:
                    self._crowd.delivered(self, packet)
                case Error() as error:
                    self._refused(error)

    def _answered(self, heartbeat_seconds: float) -> None:
        crowd = self._crowd
        now = crowd.now()
        if self.stage is Stage.GREETING:
            self.stage = Stage.HERE
            self._backoff.connected(now)
            crowd.arrived(self)
            self.lost_at = None
        this_try = self._try
        crowd.call_at(now + heartbeat_seconds * HEARTBEAT_SHARE, lambda: self._beat(this_try))

    def _beat(self, which_try: int) -> None:
        if which_try == self._try:
            self.send(self._hello)

    def _refused(self, error: Error) -> None:
        self._backoff.refused(error)
        code = Code(error.code) if error.code in MEANINGS else None
        if code is not None and MEANINGS[code].closes:
            self._lost(error.code)
        else:
            self._crowd.errors[error.code] += error.dropped or 1

    def _lost(self, why: str) -> None:
        crowd = self._crowd
        now = crowd.now()
        if self.stage is Stage.HERE:
            self.lost_at = now
            crowd.losses[why] += 1
        else:
            crowd.failures[why] += 1
        self._forget_socket()
        self._backoff.disconnected(now)
        crowd.call_at(now + self._backoff.next_wait_seconds(), self.connect)

    def _forget_socket(self) -> None:
        self.stage = Stage.AWAY
        if self._number >= 0:
            self._crowd.forget(self._number)
            self._number = -1
        if self._socket is not None:
            self._socket.close()
            self._socket = None
