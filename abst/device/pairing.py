"""Pairing: how two devices that do not know each other come to share a key (spec: pairing.md).

Pure. One conversation in three ways: by a code that is said aloud (SPAKE2), by a link with a long
secret, by comparing words. Each is bound to the keys of both devices and to the very channel it
runs over, so that a realm or a device in between can only make it fail. What is legal when stands
in one table. Whoever owns a ``Pairing`` moves its packets, shows what it wants shown, and stores
what it wants stored.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError

from abst.device.words import comparison_words
from abst.errors import Code, PairingError, RemoteProtocolError
from abst.packets import PairProcess

PAIRING_SECONDS: Final = 60.0
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 32
LINK_SECRET_BYTES: Final = 16


class Way(enum.StrEnum):
    """How the two devices make sure of each other."""

    CODE = "code"
    LINK = "link"
    COMPARE = "compare"


class Role(enum.StrEnum):
    """Which end of the channel this is."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


class State(enum.StrEnum):
    """Where a pairing stands."""

    NEW = "nothing has been said"
    BEGUN = "begin is sent"
    ANSWERED = "answer is sent, confirm is awaited"
    COMMITTED = "answer is sent, the nonce is awaited"
    ASKED = "the person is asked"
    SAID = "confirm is sent, theirs is awaited"
    HEARD = "their confirm is here, the person is asked"
    STORING = "both have confirmed, this end stores"
    LAST = "the other end has stored, this one stores"
    STORED = "this end has stored, theirs is awaited"
    PAIRED = "both have stored"
    FAILED = "over, nothing is stored"


class Step(enum.StrEnum):
    """What a Pair process packet says."""

    BEGIN = "begin"
    ANSWER = "answer"
    REVEAL = "reveal"
    CONFIRM = "confirm"
    STORED = "stored"
    REFUSED = "refused"


class Input(enum.StrEnum):
    """What happens at this end."""

    START = "start"
    YES = "the person says yes"
    KEPT = "the pairing is on disk"


@dataclass(frozen=True, slots=True)
class Show:
    """Show these words, and ask the person whether the other device shows the same."""

    words: str


@dataclass(frozen=True, slots=True)
class Store:
    """Store the pairing as pending, then call ``stored``; nothing was stored before this.

    Attributes:
        pairing_key: 32 bytes that both devices now share.
        name: what the other device calls itself.
    """

    pairing_key: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Paired:
    """Both devices have stored the pairing: it is no longer pending."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The pairing is over, and nothing is stored."""

    problem: PairingError


Event = Show | Store | Paired | Failed


@dataclass(frozen=True, slots=True)
class Ends:
    """Who the two devices are, and which channel they speak over.

    Attributes:
        initiator: the dialler's device ID and key (DER SubjectPublicKeyInfo).
        responder: the same of the one who was dialled.
        exporter: 32 bytes that only this channel's two ends know.
    """

    initiator: tuple[bytes, bytes]
    responder: tuple[bytes, bytes]
    exporter: bytes


def derive(secret: bytes, ends: Ends, way: Way, purpose: str) -> bytes:
    """Return 32 bytes for one purpose, bound to the way, both keys, and the channel (RFC 5869)."""
    info = b"".join(
        len(part).to_bytes(2, "big") + part
        for part in (
            b"ABST pairing 1",
            way.value.encode(),
            purpose.encode(),
            *ends.initiator,
            *ends.responder,
        )
    )
    return HKDF(SHA256(), KEY_BYTES, ends.exporter, info).derive(secret)


class Pairing:
    """One end of one pairing.

    Args:
        role: the initiator is who dialled the channel.
        way: how the devices make sure of each other.
        ends: who they are, and their channel.
        name: what this device calls itself.
        secret: the words of the code, or the link's secret; b"" for comparing.
        random_bytes: returns that many unpredictable bytes.
        now: the time, in seconds on whatever clock the caller uses.

    Attributes:
        state: where it stands.
        deadline: when ``handle_deadline`` ends it.
    """

    def __init__(
        self,
        role: Role,
        way: Way,
        ends: Ends,
        *,
        name: str,
        secret: bytes,
        random_bytes: Callable[[int], bytes],
        now: float,
    ) -> None:
        self.role = role
        self.way = way
        self.state = State.NEW
        self.deadline = now + PAIRING_SECONDS
        self._ends = ends
        self._name = name
        self._secret = secret
        self._random_bytes = random_bytes
        self._nonce = random_bytes(NONCE_BYTES) if way is Way.COMPARE else b""
        self._commitment = b""
        self._their_name = ""
        self._key = b""
        self._spake: Any = None
        self._events: deque[Event] = deque()
        self._packets: deque[PairProcess] = deque()

    # What the owner calls.

    def start(self) -> None:
        """Say the first word; the initiator alone."""
        self._handle(Input.START, PairProcess(Step.BEGIN))

    def receive(self, packet: PairProcess) -> None:
        """Take the other end's packet.

        Raises:
            RemoteProtocolError: it says what may not be said now; the channel is to be closed.
        """
        if packet.step == Step.REFUSED:
            self._fail(Code.PAIRING_REFUSED if packet.code is None else packet.code, told=True)
            return
        try:
            self._handle(Step(packet.step), packet)
        except ValueError:
            raise RemoteProtocolError(Code.MALFORMED, "step: unknown") from None

    def person_says(self, same: bool) -> None:
        """Take the person's word on whether both devices show the same."""
        if self.state not in (State.ASKED, State.HEARD):
            return
        if same:
            self._handle(Input.YES, PairProcess(Step.CONFIRM))
        else:
            self._fail(Code.NOT_CONFIRMED)

    def stored(self) -> None:
        """Note that the pending pairing is on disk."""
        self._handle(Input.KEPT, PairProcess(Step.STORED))

    def not_stored(self) -> None:
        """Note that the pairing cannot be stored here."""
        self._fail(Code.NOT_STORED)

    def cancel(self) -> None:
        """End it, because the person has gone away; too late once this end has stored."""
        if self.state is not State.STORED:
            self._fail(Code.NOT_CONFIRMED)

    def channel_lost(self) -> None:
        """Note that the channel is gone.

        What has been stored as pending stays so: the next Key check settles whether the other end
        has it too.
        """
        if self.state not in (State.PAIRED, State.STORED, State.FAILED):
            self._fail(Code.PAIRING_LATE, told=True)

    def handle_deadline(self, now: float) -> None:
        """End it when its time is over."""
        if now >= self.deadline and self.state not in (State.PAIRED, State.STORED):
            self._fail(Code.PAIRING_LATE)

    def next_event(self) -> Event | None:
        """Return what to show, store or tell next, or None."""
        return self._events.popleft() if self._events else None

    def next_packet(self) -> PairProcess | None:
        """Return what to send next, or None."""
        return self._packets.popleft() if self._packets else None

    # The steps, as the table at the end of this module calls them.

    def _handle(self, what: Step | Input, packet: PairProcess) -> None:
        if self.state in (State.FAILED, State.PAIRED):
            return
        step = TABLE.get((self.role, self.state, what))
        if step is None:
            self._fail(Code.MALFORMED)
            raise RemoteProtocolError(Code.MALFORMED, f"{what}: not when {self.state}")
        step(self, packet)

    def _begin(self, packet: PairProcess) -> None:
        share = commitment = None
        if self.way is Way.CODE:
            share = self._start_spake(SPAKE2_A)
        elif self.way is Way.COMPARE:
            commitment = self._commit(self._nonce)
        self._send(Step.BEGIN, way=self.way.value, share=share, commitment=commitment)
        self.state = State.BEGUN

    def _begun(self, packet: PairProcess) -> None:
        if packet.way != self.way:
            self._fail(Code.NO_WINDOW)
            return
        if self.way is Way.COMPARE:
            self._commitment = packet.commitment or b""
            self._send(Step.ANSWER, nonce=self._nonce)
            self.state = State.COMMITTED
            return
        share = None
        if self.way is Way.CODE:
            share = self._start_spake(SPAKE2_B)
        self._send(Step.ANSWER, share=share)
        self._agree(packet)
        if self.state is State.NEW:
            self.state = State.ANSWERED

    def _answered(self, packet: PairProcess) -> None:
        if self.way is Way.COMPARE:
            self._send(Step.REVEAL, nonce=self._nonce)
            self._compare(self._nonce, packet.nonce or b"")
            return
        self._agree(packet)
        if self.state is State.BEGUN:
            self._confirm()
            self.state = State.SAID

    def _revealed(self, packet: PairProcess) -> None:
        nonce = packet.nonce or b""
        if not hmac.compare_digest(self._commit(nonce), self._commitment):
            self._fail(Code.WRONG_SECRET)
            return
        self._compare(nonce, self._nonce)

    def _agreed_here(self, packet: PairProcess) -> None:
        self._confirm()
        self.state = State.SAID

    def _agreed_there(self, packet: PairProcess) -> None:
        if self._verify(packet):
            self.state = State.HEARD

    def _agreed_last(self, packet: PairProcess) -> None:
        self._confirm()
        self._keep()

    def _answered_confirm(self, packet: PairProcess) -> None:
        if self._verify(packet):
            self._confirm()
            self._keep()

    def _final_confirm(self, packet: PairProcess) -> None:
        if self._verify(packet):
            self._keep()

    def _kept(self, packet: PairProcess) -> None:
        self._send(Step.STORED)
        self.state = State.STORED

    def _they_kept(self, packet: PairProcess) -> None:
        self.state = State.LAST

    def _kept_last(self, packet: PairProcess) -> None:
        self._send(Step.STORED)
        self._paired(packet)

    def _paired(self, packet: PairProcess) -> None:
        self.state = State.PAIRED
        self._events.append(Paired())

    # What the steps share.

    def _start_spake(self, side: Any) -> bytes:
        ids = {"idA": self._ends.initiator[0], "idB": self._ends.responder[0]}
        self._spake = side(self._secret, **ids, entropy_f=self._random_bytes)
        share: bytes = self._spake.start()
        return share

    def _agree(self, packet: PairProcess) -> None:
        """Come to the shared secret of a code or a link."""
        secret = self._secret
        if self.way is Way.CODE:
            try:
                secret = self._spake.finish(packet.share or b"")
            except (SPAKEError, ValueError, AssertionError):
                self._fail(Code.WRONG_SECRET)
                return
        self._key = secret

    def _commit(self, nonce: bytes) -> bytes:
        return hashlib.sha256(derive(nonce, self._ends, self.way, "commitment")).digest()

    def _compare(self, initiator_nonce: bytes, responder_nonce: bytes) -> None:
        if len(initiator_nonce) != NONCE_BYTES or len(responder_nonce) != NONCE_BYTES:
            self._fail(Code.MALFORMED)
            return
        self._key = initiator_nonce + responder_nonce
        self.state = State.ASKED
        words = comparison_words(derive(self._key, self._ends, self.way, "words"))
        self._events.append(Show(words))

    def _mac(self, role: Role, name: str) -> bytes:
        key = derive(self._key, self._ends, self.way, f"confirm {role.value}")
        return hmac.digest(key, name.encode(), "sha256")

    def _confirm(self) -> None:
        self._send(Step.CONFIRM, mac=self._mac(self.role, self._name), name=self._name)

    def _verify(self, packet: PairProcess) -> bool:
        other = Role.RESPONDER if self.role is Role.INITIATOR else Role.INITIATOR
        name = packet.name or ""
        if not hmac.compare_digest(self._mac(other, name), packet.mac or b""):
            self._fail(Code.WRONG_SECRET)
            return False
        self._their_name = name
        return True

    def _keep(self) -> None:
        self.state = State.STORING
        self._events.append(
            Store(derive(self._key, self._ends, self.way, "pairing"), self._their_name)
        )

    def _send(self, step: Step, **values: Any) -> None:
        self._packets.append(PairProcess(step.value, **values))

    def _fail(self, code: str, *, told: bool = False) -> None:
        if self.state in (State.FAILED, State.PAIRED):
            return
        self.state = State.FAILED
        self._key = self._secret = b""
        if not told:
            self._send(Step.REFUSED, code=str(code))
        self._events.append(Failed(PairingError(str(code), theirs=told)))


_Step = Callable[[Pairing, PairProcess], None]

_BOTH: Final[dict[tuple[State, Step | Input], _Step]] = {
    (State.ASKED, Input.YES): Pairing._agreed_here,
    (State.ASKED, Step.CONFIRM): Pairing._agreed_there,
    (State.HEARD, Input.YES): Pairing._agreed_last,
    (State.SAID, Step.CONFIRM): Pairing._final_confirm,
    (State.STORING, Input.KEPT): Pairing._kept,
    (State.STORING, Step.STORED): Pairing._they_kept,
    (State.LAST, Input.KEPT): Pairing._kept_last,
    (State.STORED, Step.STORED): Pairing._paired,
}

TABLE: Final[dict[tuple[Role, State, Step | Input], _Step]] = {
    (Role.INITIATOR, State.NEW, Input.START): Pairing._begin,
    (Role.INITIATOR, State.BEGUN, Step.ANSWER): Pairing._answered,
    (Role.RESPONDER, State.NEW, Step.BEGIN): Pairing._begun,
    (Role.RESPONDER, State.ANSWERED, Step.CONFIRM): Pairing._answered_confirm,
    (Role.RESPONDER, State.COMMITTED, Step.REVEAL): Pairing._revealed,
    **{(role, state, what): step for role in Role for (state, what), step in _BOTH.items()},
}
"""Everything that is legal: which end, where it stands, what happens, and what it does then."""
