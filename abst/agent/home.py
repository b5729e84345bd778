"""A device's home: the folder with its identity, its settings, its peers and its inbox.

Owns what stands where, who may read it, and that only one agent uses it at a time. Files are
replaced whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abst.address import RealmAddress, format_host_port, parse_host_port
from abst.agent.groups.policy import OfferPolicy
from abst.agent.lan_setting import LanSetting
from abst.agent.streams.exposure import Exposure
from abst.agent.streams.gate_lines import SOCKET_NAME
from abst.device.peers import Peer
from abst.device_id import DeviceID
from abst.errors import AbstError, ConfigurationError
from abst.identity import Identity

MAX_SETTINGS_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What the owner of a device has chosen.

    Attributes:
        name: what the device calls itself.
        realms: where it can be found, in the order of use, with invitations still to be shown.
        peers: whom it trusts.
        lan: how it uses the local network.
        tells_observed_address: whether its peers are told at which address realms see it.
        exposures: what peers may reach behind it.
        group_offers: what happens to groups that peers offer.
    """

    name: str = ""
    realms: tuple[RealmAddress, ...] = ()
    peers: tuple[Peer, ...] = ()
    lan: LanSetting = field(default_factory=LanSetting)
    tells_observed_address: bool = True
    exposures: tuple[Exposure, ...] = ()
    group_offers: OfferPolicy = OfferPolicy.ACCEPT


class Home:
    """One device's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def identity_file(self) -> Path:
        """The private key."""
        return self.path / "identity.pem"

    @property
    def settings_file(self) -> Path:
        """Name, realms and peers, with secrets in it: nobody else may read it."""
        return self.path / "settings.json"

    @property
    def socket(self) -> Path:
        """Where the agent listens for commands."""
        return self.path / "agent.sock"

    @property
    def streams_socket(self) -> Path:
        """Where programs have streams through the agent."""
        return self.path / SOCKET_NAME

    @property
    def log(self) -> Path:
        """What the agent has to say when nobody looks."""
        return self.path / "agent.log"

    @property
    def inbox(self) -> Path:
        """Where files from peers arrive."""
        return self.path / "inbox"

    @property
    def database(self) -> Path:
        """Sessions, what waits, and what has arrived."""
        return self.path / "device.sqlite3"

    def create(self, name: str) -> Identity:
        """Make the folder and a new identity in it.

        Raises:
            AbstError: there is an identity already, or the folder cannot be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(str(self.path), None, error.strerror or "?") from None
        self._check_permissions()
        identity = Identity.generate()
        try:
            identity.save(self.identity_file)
        except FileExistsError:
            raise AbstError(
                f"{self.path} has an identity already; 'abst id' shows it "
                "(use --home or ABST_HOME for another device)"
            ) from None
        self.save_settings(Settings(name=name))
        return identity

    def open(self) -> tuple[Identity, Settings]:
        """Return the identity and the settings.

        Raises:
            AbstError: there is no such home, or it is not usable; the text says what to do.
        """
        if not self.identity_file.exists():
            raise AbstError(f"there is no device in {self.path} yet: run 'abst init' first")
        self._check_permissions()
        return Identity.load(self.identity_file), self._load_settings()

    def save_settings(self, settings: Settings) -> None:
        """Replace the settings on disk.

        Raises:
            ConfigurationError: the disk is full, or the folder cannot be written.
        """
        document = {
            "name": settings.name,
            "realms": [address.link for address in settings.realms],
            "lan": str(settings.lan),
            "tells_observed_address": settings.tells_observed_address,
            "group_offers": str(settings.group_offers),
            "exposures": [
                {
                    "service": exposure.service,
                    "endpoint": exposure.endpoint,
                    "peers": [str(device_id) for device_id in exposure.peers],
                }
                for exposure in settings.exposures
            ],
            "peers": [
                {
                    "device_id": str(peer.device_id),
                    "name": peer.name,
                    "public_key": _hex(peer.public_key),
                    "is_trusted": peer.is_trusted,
                    "pairing_key": _hex(peer.pairing_key),
                    "pending_key": _hex(peer.pending_key),
                    "addresses": list(peer.addresses),
                    "told_addresses": list(peer.told_addresses),
                    "networks": [network.hex() for network in peer.networks],
                    "is_introduced": peer.is_introduced,
                }
                for peer in settings.peers
            ],
        }
        try:
            replace_file(self.settings_file, json.dumps(document, indent=2).encode() + b"\n")
        except OSError as error:
            raise ConfigurationError(str(self.settings_file), None, error.strerror or "?") from None

    def lock(self) -> int:
        """Take the home for this process; the lock goes with the process, however it ends.

        Returns:
            The lock's descriptor, to be kept open.

        Raises:
            AbstError: another agent has it, or the folder cannot be written.
        """
        path = self.path / "agent.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(str(path), None, error.strerror or "?") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise AbstError(f"another agent is running for {self.path}") from None
        self._remove_drafts()
        return descriptor

    def _remove_drafts(self) -> None:
        """Remove what an agent that was killed while it saved has left behind."""
        for draft in self.path.glob(f".{self.settings_file.name}.*"):
            with contextlib.suppress(OSError):
                draft.unlink()

    def _check_permissions(self) -> None:
        try:
            found = self.path.stat()
        except OSError as error:
            raise ConfigurationError(str(self.path), None, error.strerror or "?") from None
        if found.st_uid != os.geteuid():
            raise ConfigurationError(str(self.path), None, "belongs to another user")
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077:
            raise ConfigurationError(
                str(self.path),
                None,
                f"others may look inside (mode {mode:04o}); run: chmod 700 {self.path}",
            )

    def _load_settings(self) -> Settings:
        path = self.settings_file
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(MAX_SETTINGS_BYTES))
        except FileNotFoundError:
            return Settings()
        except OSError as error:
            raise ConfigurationError(str(path), None, error.strerror or "?") from None
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(str(path), None, f"not JSON: {error}") from None
        try:
            return Settings(
                name=str(document["name"]),
                realms=tuple(RealmAddress.parse(str(text)) for text in document["realms"]),
                peers=tuple(_peer(entry) for entry in document["peers"]),
                lan=LanSetting.parse(str(document.get("lan", "on"))),
                tells_observed_address=bool(document.get("tells_observed_address", True)),
                # Settings of earlier versions have none.
                exposures=tuple(_exposure(entry) for entry in document.get("exposures", ())),
                group_offers=OfferPolicy.parse(str(document.get("group_offers", "accept"))),
            )
        except (KeyError, TypeError, ValueError, AbstError) as error:
            raise ConfigurationError(str(path), None, f"not a device's settings: {error}") from None


def _peer(entry: Any) -> Peer:
    return Peer(
        DeviceID.parse(str(entry["device_id"])),
        str(entry["name"]),
        _bytes(entry["public_key"]),
        bool(entry["is_trusted"]),
        _bytes(entry["pairing_key"]),
        _bytes(entry["pending_key"]),
        _addresses(entry, "addresses"),
        _addresses(entry, "told_addresses"),
        # Settings of earlier versions know of no networks.
        tuple(bytes.fromhex(str(network)) for network in entry.get("networks", ())),
        bool(entry.get("is_introduced", False)),
    )


def _exposure(entry: Any) -> Exposure:
    peers = tuple(DeviceID.parse(str(text)) for text in entry["peers"])
    return Exposure(str(entry["service"]), str(entry["endpoint"]), peers)


def _addresses(entry: Any, key: str) -> tuple[str, ...]:
    """Return where a peer listens; settings of earlier versions do not say."""
    return tuple(format_host_port(*parse_host_port(str(text))) for text in entry.get(key, ()))


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that it survives a crash at any moment.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the old file is unharmed.
    """
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
