"""One attempt to pair, as an application sees it.

An application gives a ``PairingObserver`` that shows things to a person, and passes the person's
word back to the ``PairingAttempt``. The attempt owns the code or the link, the window at the realm,
and how the other device is found; the conversation itself is ``pairing``'s.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlencode

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device.pairing import LINK_SECRET_BYTES, PAIRING_SECONDS, Ends, Pairing, Role, Store, Way
from abst.device.peers import Peer
from abst.device.words import PairingCode
from abst.device_id import DeviceID
from abst.errors import AbstError, Code, PairingError, PeerUnreachableError, RealmRefusedError
from abst.packets import FindWindow, OpenWindow, PairProcess

if TYPE_CHECKING:
    from abst.device.device import Device
    from abst.device.introduction import Introduction

LINK_SCHEME: Final = "abst-pair:"
MAX_LINK_REALMS: Final = 4
LINK_TRIES: Final = 50
LINK_TRIES_BESIDE_LAN: Final = 15
LINK_TRY_SECONDS: Final = 0.1
LAN_TRIES: Final = 40
LAN_NUMBERS: Final = range(100, 1000)
"""Numbers of codes without a realm; a realm's own are smaller as long as few are in use."""


@dataclass(frozen=True, slots=True)
class PairingLink:
    """What ``abst-pair:...`` holds: whom to pair with, where, and the secret.

    Attributes:
        device_id: the device that shows the link.
        secret: 16 random bytes.
        realms: where that device can be found.
    """

    device_id: DeviceID
    secret: bytes
    realms: tuple[RealmAddress, ...] = ()

    def __str__(self) -> str:
        secret = base64.urlsafe_b64encode(self.secret).rstrip(b"=").decode()
        query = [("secret", secret), *(("realm", str(realm)) for realm in self.realms)]
        return f"{LINK_SCHEME}{self.device_id}?{urlencode(query)}"

    @classmethod
    def parse(cls, text: str) -> PairingLink:
        """Return the link that a text holds.

        Raises:
            AbstError: it is no such link.
        """
        device_id, _, query = text.strip().removeprefix(LINK_SCHEME).partition("?")
        values = parse_qsl(query)
        try:
            (encoded,) = (value for key, value in values if key == "secret")
            secret = base64.urlsafe_b64decode(encoded + "==")
            told = [value for key, value in values if key == "realm"]
            realms = tuple(RealmAddress.parse_told(value) for value in told)
            if len(secret) != LINK_SECRET_BYTES or len(realms) > MAX_LINK_REALMS:
                raise ValueError
            return cls(DeviceID.parse(device_id), secret, realms)
        except ValueError:
            raise AbstError("that link is not whole: copy or scan it again") from None


PairingTarget: TypeAlias = PairingCode | PairingLink | DeviceID
"""What a person has typed or scanned: decides the way of pairing."""


def parse_target(text: str) -> PairingTarget:
    """Return what a person means: a code, a link, or a device ID.

    Raises:
        AbstError: it is none of them.
    """
    if text.strip().startswith(LINK_SCHEME):
        return PairingLink.parse(text)
    if len(text.strip()) == 36 and text.count("-") == 4:
        try:
            return DeviceID.parse(text)
        except ValueError as error:
            raise AbstError(str(error)) from None
    code: PairingCode = PairingCode.parse(text)
    return code


@dataclass(frozen=True, slots=True)
class NearbyDevice:
    """A device on the local network that says of itself that it waits to be paired.

    Attributes:
        device_id: what it says its ID is; pairing proves it.
        name: what it calls itself; anybody may call himself anything.
    """

    device_id: DeviceID
    name: str


class PairingObserver:
    """What an application does with a pairing; override all of it."""

    def offer_ready(self, code: str | None, link: str, seconds: float) -> None:
        """Show the code (None when no realm gives a number) or the link; they hold for a while."""

    def compare(self, words: str) -> None:
        """Show the words, ask whether the other device shows the same, call ``person_says``."""

    def paired(self, peer: Peer) -> None:
        """Both devices have stored the pairing."""

    def failed(self, problem: AbstError) -> None:
        """Nothing is paired; the problem says why and what to do."""

    def nearby(self, devices: list[NearbyDevice]) -> None:
        """Show who else waits to be paired on the local network; called again when it changes."""


class PairingAttempt:
    """One attempt.

    Args:
        device: this device.
        observer: is told what happens.
        target: whom to pair with; None to wait for the other device.
    """

    def __init__(
        self, device: Device, observer: PairingObserver, target: PairingTarget | None
    ) -> None:
        self._device = device
        self._observer = observer
        self._target = target
        self._found: DeviceID | None = None
        self._secrets: dict[Way, bytes] = {}
        self._asking: tuple[DeviceID, Introduction] | None = None
        self._partners: set[DeviceID] = set()
        self._current: Pairing | None = None
        self._timer: Any = None
        self._windows: list[Any] = []
        self._added: list[RealmAddress] = []
        self._is_over = False
        self._nearby: list[NearbyDevice] = []
        self._has_begun = False
        self._has_responded = False
        self._sleeping: Deferred[Any] | None = None
        self._work: Deferred[Any] | None = None

    # For the application.

    def person_says(self, same: bool) -> None:
        """Pass on whether the other device shows the same words."""
        if self._asking is not None:
            device_id, introduction = self._asking
            introduction.person_says(same)
            self._device.connection(device_id).settle()

    def cancel(self) -> None:
        """End the attempt; nothing is paired."""
        if not self._is_over:
            self._give_up(PairingError(str(Code.NOT_CONFIRMED)))

    # For the device.

    def start(self) -> None:
        """Open a window, or look for the other device and dial it."""
        device = self._device
        self._timer = device.reactor.callLater(PAIRING_SECONDS, self._late)
        work = self._offer() if self._target is None else self._dial(self._target)
        self._work = ensureDeferred(work)
        self._work.addErrback(self._went_wrong)

    def admits(self, device_id: DeviceID) -> bool:
        """Tell whether a device may pair with this one now."""
        if self._target is not None:
            return device_id == self._found
        # A link stays good whoever else tries; a code and comparing are one try.
        return Way.LINK in self._secrets or not self._partners or device_id in self._partners

    def concerns(self, device_id: DeviceID) -> bool:
        """Tell whether a device is one that is being paired."""
        return device_id in self._partners

    def goes_on_elsewhere(self, device_id: DeviceID) -> bool:
        """Tell whether another channel counts, when a device begins that was dialled too.

        Both have dialled by ID: the dial of the lower one counts, and there is one comparison.
        """
        if self._target is None:
            return False
        return self._has_responded or (self._has_begun and self._device.device_id < device_id)

    def is_current(self, pairing: Pairing) -> bool:
        """Tell whether what becomes of a pairing is what becomes of the attempt."""
        return self._target is None or pairing is self._current

    def initiate(self, ends: Ends, now: float) -> Pairing | None:
        """Return the pairing for a channel that this device has dialled; None for a further one.

        A device is dialled at several addresses at once, and has one guess.
        """
        if self._has_begun:
            return None
        self._has_begun = True
        way, secret = self._way()
        return self._pairing(Role.INITIATOR, way, secret, ends, now)

    def respond(self, begin: PairProcess, ends: Ends, now: float) -> Pairing | None:
        """Return the pairing for a channel that another device has dialled; None to refuse."""
        way = next((way for way in Way if way == begin.way), None)
        if self._target is None:
            secret = None if way is None else self._secrets.get(way)
        else:
            # Both have dialled by ID, and the other's dial counted.
            own, _ = self._way()
            secret = b"" if way is own is Way.COMPARE else None
        if way is None or secret is None:
            return None
        if way is not Way.LINK:
            # One guess: the code is used up, whatever comes of it.
            self._secrets.clear()
            self._close_windows()
        self._has_responded = True
        self._partners.add(self._device_of(ends))
        return self._pairing(Role.RESPONDER, way, secret, ends, now)

    def show(self, introduction: Introduction, words: str) -> None:
        """Have the words shown that a channel's two ends have come to."""
        self._asking = (introduction.device_id, introduction)
        self._observer.compare(words)

    def store(self, device_id: DeviceID, key: bytes, store: Store) -> None:
        """Store a pairing as pending.

        Raises:
            AbstError: that is not possible.
        """
        self._device.peers.pend(device_id, key, store.pairing_key, store.name)

    def paired(self, peer: Peer) -> None:
        """Note that the session with the paired device stands."""
        if not self._is_over:
            self._end()
            self._observer.paired(peer)

    def pairing_failed(self, pairing: Pairing, problem: AbstError) -> None:
        """Note that a pairing has failed; one by a link, that somebody else tried, is not all."""
        if self._target is None and pairing.way is Way.LINK and not self._is_over:
            return
        self.failed(problem)

    def failed(self, problem: AbstError) -> None:
        """Note that the attempt is over."""
        if not self._is_over:
            self._end()
            for address in self._added:
                self._device.removeRealm(address)
            self._observer.failed(problem)

    def realm_failed(self) -> None:
        """Give up when no realm lets this device in, and the other one cannot be near."""
        if self._device.lan is None and not self._is_over and self._is_let_in_nowhere():
            self._give_up(self._not_let_in())

    # Inside.

    def _is_let_in_nowhere(self) -> bool:
        links = self._device.links.values()
        return bool(links) and all(not link.is_up and link.refusal is not None for link in links)

    def _not_let_in(self) -> AbstError:
        return AbstError(f"not paired, since no realm can be used: {self._device.why_no_realm()}")

    async def _offer(self) -> None:
        """Make a code and a link, and have the device found under the code's number."""
        device = self._device
        secret = device.random_bytes(LINK_SECRET_BYTES)
        link = PairingLink(device.device_id, secret, tuple(device.links)[:MAX_LINK_REALMS])
        self._secrets = {Way.LINK: secret, Way.COMPARE: b""}
        number = None
        await self._link_up()
        for realm in device.links_up()[:1]:
            number = (await realm.ask(OpenWindow())).number
            if self._is_over:
                realm.tell(OpenWindow(close=True))
            else:
                self._windows.append(realm)
        if self._is_over:
            return
        code = None
        if number is None and device.lan is not None:
            number = LAN_NUMBERS[int.from_bytes(device.random_bytes(4), "big") % len(LAN_NUMBERS)]
        if number is not None:
            code = PairingCode.from_random(number, device.random_bytes(2))
            self._secrets[Way.CODE] = code.secret
        if device.lan is not None:
            device.lan.announce_pairing(device.device_name, number)
        text = None if code is None else str(code)
        self._observer.offer_ready(text, str(link), PAIRING_SECONDS)
        self.announcement_seen()

    async def _dial(self, target: PairingTarget) -> None:
        match target:
            case PairingCode():
                self._found = await self._find(target.number)
            case PairingLink():
                self._found = target.device_id
                self._added = [at for at in target.realms if at not in self._device.links]
                for address in self._added:
                    self._device.addRealm(address)
            case _:
                self._found = target
        if self._is_over:
            return
        if self._found == self._device.device_id:
            raise AbstError("that is this device itself: give it to the other device")
        self._partners.add(self._found)
        protocol = await self._device.connection(self._found).pair()
        self.paired(protocol.peer)

    async def _find(self, number: int) -> DeviceID:
        """Return the device that waits under a number, on this network or at a realm."""
        await self._link_up()
        found = self._find_nearby(number)
        if found is not None:
            return found
        try:
            return await self._find_at_realm(number)
        except AbstError as problem:
            # It may have begun to wait just now, or this device may have just been started.
            for _ in range(LAN_TRIES if self._device.lan is not None else 0):
                await self._sleep()
                found = self._find_nearby(number)
                if found is not None or self._is_over:
                    break
            if found is None:
                raise problem
            return found

    def _find_nearby(self, number: int) -> DeviceID | None:
        """Return the device on this network that waits under a number, or None.

        Raises:
            PairingError: there are several; to guess would give each of them a try.
        """
        if self._device.lan is None:
            return None
        found = {
            announcement.device_id
            for announcement in self._device.lan.open_announcements()
            if announcement.number == number
        }
        if len(found) > 1:
            raise AbstError(
                f"several devices on this network show the number {number}: let the other device "
                "make a new code, or pair by its ID or its link"
            )
        return found.pop() if found else None

    async def _find_at_realm(self, number: int) -> DeviceID:
        problem: AbstError = PeerUnreachableError(
            "no device on this network waits with that code, and no realm can be asked: "
            f"{self._device.why_no_realm()}"
        )
        for realm in self._device.links_up():
            try:
                found = await realm.ask(FindWindow(number))
            except RealmRefusedError as error:
                problem = error
            else:
                return DeviceID(found.device_id)
        raise problem

    async def _link_up(self) -> None:
        """Wait a little for a realm: the agent may just have been started."""
        tries = LINK_TRIES if self._device.lan is None else LINK_TRIES_BESIDE_LAN
        for _ in range(tries):
            if self._is_over or not self._device.links or self._device.links_up():
                return
            await self._sleep()

    async def _sleep(self) -> None:
        self._sleeping = deferLater(self._device.reactor, LINK_TRY_SECONDS, lambda: None)
        try:
            await self._sleeping
        finally:
            self._sleeping = None

    def _way(self) -> tuple[Way, bytes]:
        match self._target:
            case PairingCode() as code:
                return Way.CODE, code.secret
            case PairingLink() as link:
                return Way.LINK, link.secret
        return Way.COMPARE, b""

    def _device_of(self, ends: Ends) -> DeviceID:
        own = bytes(self._device.device_id)
        other = ends.initiator[0] if ends.responder[0] == own else ends.responder[0]
        return DeviceID(other)

    def _pairing(self, role: Role, way: Way, secret: bytes, ends: Ends, now: float) -> Pairing:
        self._current = Pairing(
            role,
            way,
            ends,
            name=self._device.device_name,
            secret=secret,
            random_bytes=self._device.random_bytes,
            now=now,
        )
        return self._current

    def _went_wrong(self, failure: Failure) -> None:
        problem = failure.value
        if self._is_over:
            return
        if isinstance(problem, AbstError):
            self.failed(problem)
        else:
            self.failed(AbstError("pairing failed: the log says why"))
            self._device.log.failure("pairing failed", failure)

    def _late(self) -> None:
        late = PairingError(str(Code.PAIRING_LATE))
        self._give_up(self._not_let_in() if self._is_let_in_nowhere() else late)

    def _give_up(self, problem: AbstError) -> None:
        self.failed(problem)
        for partner in self._partners:
            self._device.connection(partner).cancel_pairing()

    def announcement_seen(self) -> None:
        """See who else waits to be paired on the local network."""
        lan = self._device.lan
        if lan is None or self._target is not None or self._is_over:
            return
        found = [
            NearbyDevice(announcement.device_id, announcement.name)
            for announcement in lan.open_announcements()
        ]
        if found != self._nearby:
            self._nearby = found
            self._observer.nearby(found)

    def _close_windows(self) -> None:
        if self._target is None and self._device.lan is not None:
            self._device.lan.stop_pairing()
        windows, self._windows = self._windows, []
        for realm in windows:
            realm.tell(OpenWindow(close=True))

    def _end(self) -> None:
        self._is_over = True
        if self._sleeping is not None:
            self._sleeping.cancel()
        self._secrets.clear()
        self._close_windows()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._device.pairing_over(self)
