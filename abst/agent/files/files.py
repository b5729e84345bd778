"""Files and folders between this agent and its peers, in both directions, over streams.

Owns which shipments there are, and that what was on its way goes on when the agent starts again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.agent.files.draft import Draft
from abst.agent.files.drafts import Drafts
from abst.agent.files.outgoing import Item
from abst.agent.files.packets import SERVICE, TRANSFER_ID_BYTES
from abst.agent.files.receiver import FileReceiverFactory
from abst.agent.files.shipment import Observer, Shipment
from abst.agent.files.tree import TransferError
from abst.agent.inbox import Inbox
from abst.agent.packets import NOTHING
from abst.agent.records import Arrived, Sending
from abst.device import Device
from abst.device_id import DeviceID
from abst.errors import AbstError

KEPT_BYTES: Final = 8 * 1024 * 1024
"""A piece of memory that is larger than all that files are carried in."""

InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments, not in this thread, and returns a Deferred of its result."""

Notify = Callable[[dict[str, Any]], None]
"""Called with each item that arrives, as the inbox lists it."""


class Files:
    """The files of one agent.

    Args:
        device: the device.
        inbox: where what arrives is listed.
        folder: where it is stored.
        notify: who else hears of what arrives.
        in_thread: runs what may wait long for the disk.
        random_bytes: returns that many unpredictable bytes.
    """

    log = Logger(namespace="abst.agent")

    def __init__(
        self,
        device: Device,
        inbox: Inbox,
        folder: Path,
        notify: Notify,
        in_thread: InThread,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._device = device
        self._inbox = inbox
        self._records = inbox.records
        self._drafts = Drafts(folder)
        self._notify = notify
        self._in_thread = in_thread
        self._random_bytes = random_bytes
        self._shipments: set[Shipment] = set()
        self._answers: dict[DeviceID, list[Deferred[None]]] = {}
        self._port: IListeningPort | None = None

    def start(self) -> Deferred[Any]:
        """Take what peers send, and go on with what was on its way before."""
        # The C library gives pieces up to the largest that was ever freed back to itself, and not
        # to the system: to get each block anew, page by page, cost as much as to send it.
        bytes(KEPT_BYTES)
        device_ids = {bytes(peer.device_id) for peer in self._device.peers}
        self._records.keep_only(device_ids)
        for draft in self._drafts.recover(device_ids):
            if self._records.arrived(draft.offer.device_id, draft.offer.transfer) is None:
                self._stored(draft.offer.device_id, draft)
            self._records.commit()
            self._drafts.settle(draft)
        self._records.commit()
        receivers = FileReceiverFactory(
            self._device.reactor,
            self._drafts,
            self._records,
            self._stored,
            self._in_thread,
            lambda device_id: not self._trusts(device_id),
        )
        for peer in self._device.peers:
            self._resume(peer.device_id)
        return self._device.streams.listen(SERVICE, receivers)

    def stop(self) -> None:
        """Leave everything as it is, for the next start."""
        for shipment in tuple(self._shipments):
            shipment.stop()

    def send(self, device_id: DeviceID, paths: Iterable[Path], observer: Observer) -> Shipment:
        """Begin to send files and folders; it goes on by itself until all are settled.

        Args:
            device_id: the peer.
            paths: what to send, in this order.
            observer: hears how it goes.
        """
        items = [Item(self._random_bytes(TRANSFER_ID_BYTES), path) for path in paths]
        for item in items:
            self._records.begin_sending(bytes(device_id), Sending(item.transfer, item.path))
        self._records.commit()
        return self._ship(device_id, items, observer)

    def session_over(self, device_id: DeviceID, problem: AbstError) -> None:
        """Give up what is on its way to a device, and from it when it is not trusted any more."""
        for shipment in tuple(self._shipments):
            if shipment.device_id == device_id:
                shipment.give_up(problem)
        if not self._trusts(bytes(device_id)):
            self._in_thread(self._drafts.discard_from, bytes(device_id))

    def _resume(self, device_id: DeviceID) -> None:
        sending = self._records.sending(bytes(device_id))
        if sending:
            items = [Item(one.transfer, one.path, is_offered=True) for one in sending]
            self._ship(device_id, items, _InTheLog()).finished.addErrback(self._failed)

    def _ship(self, device_id: DeviceID, items: list[Item], observer: Observer) -> Shipment:
        shipment = Shipment(
            self._device.reactor,
            device_id,
            items,
            self._device.streams,
            self._records,
            self._in_thread,
            self._when_it_answers,
            observer,
        )
        self._shipments.add(shipment)

        def over(result: Any) -> Any:
            self._shipments.discard(shipment)
            return result

        shipment.finished.addBoth(over)
        shipment.start()
        return shipment

    def _failed(self, failure: Failure) -> None:
        self.log.failure("what was on its way cannot be sent", failure)

    def _trusts(self, device_id: bytes) -> bool:
        peer = self._device.peers.get(DeviceID(device_id))
        return peer is not None and peer.is_trusted

    def _stored(self, device_id: bytes, draft: Draft) -> None:
        """Put what has arrived into the list, and on record."""
        peer = self._device.peers.get(DeviceID(device_id))
        offer = draft.offer
        item: dict[str, Any] = {
            "kind": "folder" if offer.is_folder else "file",
            "file": draft.stored_as,
            "path": str(draft.path),
            "size_bytes": offer.size_bytes,
        }
        if offer.is_folder:
            item["entries"] = offer.entries
        else:
            item["sha256"] = draft.sha256.hex()
        arrived = Arrived(offer.transfer, draft.stored_as, draft.sha256)
        self._records.add_arrived(device_id, arrived)
        shown = str(peer) if peer is not None else str(DeviceID(device_id))
        self._notify(
            self._inbox.add({**item, "peer": shown, "device_id": str(DeviceID(device_id))})
        )

    def _when_it_answers(self, device_id: DeviceID) -> Deferred[None]:
        """Return a Deferred that fires once a peer has answered through the session.

        A packet that says nothing waits for it there, one for all who ask.
        """
        answered: Deferred[None] = Deferred(lambda _: None)
        waiting = self._answers.get(device_id)
        if waiting is not None:
            waiting.append(answered)
            return answered
        self._answers[device_id] = [answered]
        try:
            said = self._device.open(device_id).sendPacket(NOTHING, {})
        except AbstError:
            # The session is over or too full: only time helps.
            del self._answers[device_id]
            return answered
        said.addBoth(self._answered, device_id)
        return answered

    def _answered(self, result: Any, device_id: DeviceID) -> None:
        for answered in self._answers.pop(device_id, []):
            if not answered.called:
                answered.callback(None)


class _InTheLog(Observer):
    """Writes down what no command waits for."""

    log = Logger(namespace="abst.agent")

    def failed(self, item: Item, problem: TransferError) -> None:
        """Say that an item is given up."""
        self.log.warn("what was on its way is given up: {why}", why=problem.reason)
