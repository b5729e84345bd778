"""What happens on a fresh channel before the session may use it (spec: channel.md, pairing.md).

Owns one channel's Hello exchange, and after it the Key check of two devices that are paired, or the
Pair process of two that want to be. It is told packets and says what came of them to its host; it
knows nothing of sessions but the ID and the count that a Hello carries.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from abst import codec
from abst.device.channel import Channel
from abst.device.key_check import matching_key, proof
from abst.device.pairing import Ends, Failed, Paired, Pairing, Show, Step, Store
from abst.device.pairing_attempt import PairingAttempt
from abst.device.peers import Peer
from abst.device_id import DeviceID
from abst.errors import (
    AbstError,
    Code,
    NotTrustedError,
    PairingError,
    RemoteProtocolError,
    explain,
)
from abst.packets import (
    PROTOCOL_VERSION,
    SESSION_ID_BYTES,
    DeviceHello,
    KeyCheck,
    Packet,
    PairProcess,
)


class Stage(enum.Enum):
    """How far an introduction has come."""

    HELLO = "Hello is awaited"
    STRANGER = "one does not trust the other, and nobody has asked to pair"
    PAIRING = "Pair process"
    CHECKING = "Key check is awaited"
    DONE = "the session may use the channel"


class Household(Protocol):
    """What an introduction needs of its device."""

    device_id: DeviceID
    public_key: bytes
    random_bytes: Callable[[int], bytes]

    def peer_of(self, device_id: bytes) -> Peer | None:
        """Return a device that is trusted or whose pairing is pending, or None."""

    def own_hello(
        self, session: bytes, received: int, *, paired: bool, pairing: bool
    ) -> DeviceHello:
        """Return this device's Hello."""

    def met(
        self,
        device_id: DeviceID,
        key: bytes,
        name: str,
        pairing_key: bytes,
        addresses: list[str],
    ) -> None:
        """Note what a device has shown that has passed the Key check, and with which key."""

    def not_paired_there(self, device_id: DeviceID) -> None:
        """Note that the other device holds no pairing with this one."""

    def pairing_with(self, device_id: DeviceID) -> PairingAttempt | None:
        """Return the attempt to pair that the other device may take part in, or None."""


class Host(Protocol):
    """Whoever has the channel: told what comes of its introduction."""

    @property
    def wants_pairing(self) -> bool:
        """Whether a person has asked for a pairing with the other device."""

    def own_session(self) -> tuple[bytes, int]:
        """Return the session ID to propose, and what has been received of it."""

    def agree_on_session(self, proposed: bytes) -> tuple[bytes, int]:
        """Return the session ID that counts, and what has been received of it."""

    def introduced(self, introduction: Introduction) -> None:
        """The session may use the channel."""

    def estranged(self, introduction: Introduction, problem: NotTrustedError) -> None:
        """One of the two does not trust the other; no dialling will change that."""

    def unpaired(self, introduction: Introduction, problem: AbstError) -> None:
        """Pairing has failed; the channel is of no use any more."""

    def superfluous(self, introduction: Introduction) -> None:
        """The devices are being paired on another channel; this one is not needed."""


class Introduction:
    """One channel's introduction.

    Args:
        household: this device.
        host: told what comes of it.
        device_id: the other device, whose key the channel has proved.
        channel: the channel.

    Attributes:
        channel: the channel.
        device_id: the other device.
        stage: how far it has come.
        hello_sent: whether this end's Hello is out.
        is_for_pairing: whether the devices are or were paired on it: persons take their time.
        session_id: the session that the two Hellos have agreed on.
        peer_received: what the other side has received of it.
    """

    def __init__(
        self, household: Household, host: Host, device_id: DeviceID, channel: Channel
    ) -> None:
        self.channel = channel
        self.stage = Stage.HELLO
        self.hello_sent = False
        self.is_for_pairing = False
        self.session_id = b""
        self.peer_received = 0
        self._household = household
        self._host = host
        self.device_id = device_id
        self._name = ""
        self._addresses: list[str] = []
        self._asks_to_pair = False
        self._pairing: tuple[Pairing, PairingAttempt] | None = None

    def begin(self) -> None:
        """Say Hello first, as the dialler does."""
        self._asks_to_pair = self._host.wants_pairing
        is_peer = self._household.peer_of(self.device_id) is not None
        self._say_hello(*self._host.own_session(), paired=is_peer)

    def take(self, packet: Packet, now: float) -> None:
        """Take a packet of the introduction.

        Raises:
            RemoteProtocolError: it is none that may come now.
        """
        match packet, self.stage:
            case DeviceHello() as hello, Stage.HELLO:
                self._take_hello(hello, now)
            case PairProcess() as step, Stage.STRANGER | Stage.PAIRING:
                self._take_pair_process(step, now)
            case KeyCheck() as check, Stage.CHECKING:
                self._take_key_check(check)
            case _:
                raise RemoteProtocolError(Code.HELLO_FIRST, "Hello is the first packet, and once")

    def person_says(self, same: bool) -> None:
        """Take the person's word on the words that were shown."""
        if self._pairing is not None:
            self._pairing[0].person_says(same)
            self._pump()

    def cancel(self) -> None:
        """End the pairing: the person has gone away."""
        if self._pairing is not None:
            self._pairing[0].cancel()
            self._pump()

    def channel_lost(self) -> None:
        """Note that the channel is gone."""
        if self._pairing is not None:
            self._pairing[0].channel_lost()
            self._pump()
            self._pairing = None

    # Hello.

    def _say_hello(self, session_id: bytes, received: int, *, paired: bool) -> None:
        hello = self._household.own_hello(
            session_id, received, paired=paired, pairing=self._asks_to_pair
        )
        self.channel.send(codec.encode(hello))
        self.hello_sent = True

    def _take_hello(self, hello: DeviceHello, now: float) -> None:
        if hello.device_id != self.device_id:
            raise RemoteProtocolError(Code.WRONG_DEVICE, "Hello names another device")
        if hello.version < PROTOCOL_VERSION:
            raise RemoteProtocolError(Code.WRONG_VERSION, f"version {PROTOCOL_VERSION} is needed")
        self._name = hello.name
        self._addresses = hello.addresses
        self.session_id = hello.session
        self.peer_received = hello.received
        peer = self._household.peer_of(self.device_id)
        if not self.channel.dialled and hello.pairing:
            attempt = self._household.pairing_with(self.device_id)
            self._asks_to_pair = attempt is not None
        if peer is not None and hello.paired:
            if not self.channel.dialled:
                self._answer(hello)
            may_pair = self._household.pairing_with(self.device_id) is not None
            if self._asks_to_pair and hello.pairing and may_pair:
                self._meet_to_pair(now)
            else:
                self._prove(peer)
            return
        self.peer_received = 0
        if not self.channel.dialled:
            self.session_id = self._household.random_bytes(SESSION_ID_BYTES)
            self._say_hello(self.session_id, 0, paired=peer is not None)
        self._meet_stranger(peer, now)

    def _answer(self, hello: DeviceHello) -> None:
        """Decide, as the acceptor, which session the channel is for."""
        self.session_id, received = self._host.agree_on_session(hello.session)
        if self.session_id != hello.session:
            self.peer_received = 0
        self._say_hello(self.session_id, received, paired=True)

    def _meet_stranger(self, peer: Peer | None, now: float) -> None:
        # Asked before the pending pairing is dropped: a peer that was one here is named.
        problem = self._not_trusted(peer)
        if peer is not None:
            self._household.not_paired_there(self.device_id)
        if self._household.pairing_with(self.device_id) is not None:
            self._meet_to_pair(now)
        elif self.channel.dialled or peer is not None:
            self._host.estranged(self, problem)
        else:
            # The dialler closes, now that it knows; it may still ask to pair, and be told no.
            self.stage = Stage.STRANGER

    def _meet_to_pair(self, now: float) -> None:
        """Begin the Pair process as the dialler, or wait for it."""
        attempt = self._household.pairing_with(self.device_id)
        assert attempt is not None
        self.stage = Stage.PAIRING
        self.is_for_pairing = True
        if self.channel.dialled:
            pairing = attempt.initiate(self._ends(), now)
            if pairing is None:
                self._host.superfluous(self)
                return
            self._pairing = (pairing, attempt)
            pairing.start()
            self._pump()

    def _not_trusted(self, peer: Peer | None) -> NotTrustedError:
        if peer is None:
            return NotTrustedError("this device does not trust the other one", theirs=False)
        if peer.pairing_key is not None:
            return NotTrustedError(f"{peer} has forgotten this device: pair again", theirs=True)
        return NotTrustedError(
            f"{peer} does not trust this device yet: on {peer}, run "
            f"'abst trust {self._household.device_id}'",
            theirs=True,
        )

    # Key check.

    def _prove(self, peer: Peer) -> None:
        keys = peer.pairing_keys(self._household.device_id)
        exporter, dialled = self.channel.exporter(), self.channel.dialled
        proofs = [proof(key, exporter, by_dialler=dialled) for key in keys]
        self.channel.send(codec.encode(KeyCheck(*proofs)))
        self.stage = Stage.CHECKING

    def _take_key_check(self, check: KeyCheck) -> None:
        peer = self._household.peer_of(self.device_id)
        keys = [] if peer is None else peer.pairing_keys(self._household.device_id)
        by_dialler = not self.channel.dialled
        proofs = [check.mac] if check.older is None else [check.mac, check.older]
        key = matching_key(keys, self.channel.exporter(), proofs, by_dialler=by_dialler)
        if key is None:
            self._household.not_paired_there(self.device_id)
            problem = f"{peer or self.device_id}: {explain(Code.WRONG_PAIRING)}"
            self._host.estranged(self, NotTrustedError(problem, theirs=False))
            return
        self.stage = Stage.DONE
        self._household.met(self.device_id, self.channel.peer_key, self._name, key, self._addresses)
        self._host.introduced(self)

    # Pair process.

    def _take_pair_process(self, step: PairProcess, now: float) -> None:
        if self._pairing is None:
            attempt = self._household.pairing_with(self.device_id)
            pairing = None
            if attempt is not None and not self.channel.dialled:
                if attempt.goes_on_elsewhere(self.device_id):
                    # Both have dialled, and the other one's dial does not count: it will see.
                    return
                pairing = attempt.respond(step, self._ends(), now)
            if attempt is None or pairing is None:
                refused = PairProcess(Step.REFUSED.value, code=str(Code.NO_WINDOW))
                self.channel.send(codec.encode(refused))
                self._host.unpaired(self, PairingError(str(Code.NO_WINDOW)))
                return
            self.stage = Stage.PAIRING
            self.is_for_pairing = True
            self._pairing = (pairing, attempt)
        try:
            self._pairing[0].receive(step)
        finally:
            self._pump()

    def _ends(self) -> Ends:
        own = (bytes(self._household.device_id), self._household.public_key)
        other = (bytes(self.device_id), self.channel.peer_key)
        dialler, acceptor = (own, other) if self.channel.dialled else (other, own)
        return Ends(dialler, acceptor, self.channel.exporter())

    def _pump(self) -> None:
        """Send what the pairing wants to say, and do what it wants done."""
        while self._pairing is not None:
            pairing, attempt = self._pairing
            while (packet := pairing.next_packet()) is not None:
                self.channel.send(codec.encode(packet))
            event = pairing.next_event()
            match event:
                case Show():
                    attempt.show(self, event.words)
                case Store():
                    self._store(pairing, attempt, event)
                case Paired():
                    self._pairing = None
                    peer = self._household.peer_of(self.device_id)
                    assert peer is not None
                    self._prove(peer)
                case Failed() if not attempt.is_current(pairing):
                    self._pairing = None
                    self._host.superfluous(self)
                case Failed():
                    self._pairing = None
                    self._household.not_paired_there(self.device_id)
                    self._host.unpaired(self, event.problem)
                    attempt.pairing_failed(pairing, event.problem)
                case None:
                    return

    def _store(self, pairing: Pairing, attempt: PairingAttempt, store: Store) -> None:
        try:
            attempt.store(self.device_id, self.channel.peer_key, store)
        except AbstError:
            pairing.not_stored()
        else:
            self._name = store.name
            pairing.stored()
