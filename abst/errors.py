"""The exceptions that ABST raises, and the table of wire codes.

Owns every error class and every code that may stand in an Error packet (spec: realm.md, "Errors").
Classes carry data; the sentence a person reads is made from it. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """A wire code: why something was refused. The table below has the meanings."""

    # Refused packets; the connection stays.
    UNKNOWN_PACKET = "unknown_packet"
    TARGET_ABSENT = "target_absent"
    QUEUE_FULL = "queue_full"
    UNDELIVERED = "undelivered"
    IDENTITY_CONFLICT = "identity_conflict"
    RATE_LIMITED = "rate_limited"
    NO_WINDOW = "no_window"
    CIRCUITS_FULL = "circuits_full"
    NO_GROUP = "no_group"
    WRONG_PROOF = "wrong_proof"
    WRONG_EPOCH = "wrong_epoch"
    NOT_JOINED = "not_joined"
    GROUPS_FULL = "groups_full"
    WRONG_REVISION = "wrong_revision"
    VALUES_FULL = "values_full"
    NOT_KEPT = "not_kept"
    VOLUME_SPENT = "volume_spent"
    # A circuit that was joined has been ended by the realm.
    CIRCUIT_IDLE = "circuit_idle"
    CIRCUIT_SPENT = "circuit_spent"
    # Refused legs; the realm closes the leg after saying so.
    WRONG_TOKEN = "wrong_token"
    CIRCUIT_REFUSED = "circuit_refused"
    CIRCUIT_UNANSWERED = "circuit_unanswered"
    # Refused streams; the acceptor closes after saying so.
    NO_SERVICE = "no_service"
    NOT_ADMITTED = "not_admitted"
    # Refused pairings; the channel is closed after them.
    WRONG_SECRET = "wrong_secret"
    NOT_CONFIRMED = "not_confirmed"
    NOT_STORED = "not_stored"
    PAIRING_LATE = "pairing_late"
    PAIRING_REFUSED = "pairing_refused"
    WRONG_PAIRING = "wrong_pairing"
    # Refused connections; the realm closes after saying so.
    TLS_REQUIRED = "tls_required"
    WRONG_VERSION = "wrong_version"
    HELLO_FIRST = "hello_first"
    HELLO_LATE = "hello_late"
    WRONG_DEVICE = "wrong_device"
    WRONG_SOURCE = "wrong_source"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    SILENT = "silent"
    STALLED = "stalled"
    REPLACED = "replaced"
    REALM_FULL = "realm_full"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    NOT_INVITED = "not_invited"
    WRONG_INVITATION = "wrong_invitation"
    NOT_LISTED = "not_listed"
    REVOKED = "revoked"
    RESTARTING = "restarting"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a wire code tells the one who gets it.

    Attributes:
        closes: whether the sender of the error closes the connection after it.
        sentence: what happened, for people.
        remedy: what to do about it.
    """

    closes: bool
    sentence: str
    remedy: str


MEANINGS: dict[Code, Meaning] = {
    Code.UNKNOWN_PACKET: Meaning(
        False, "the packet id is not known here", "send only ids that this version offers"
    ),
    Code.TARGET_ABSENT: Meaning(
        False, "the target device is not connected to this realm", "try again when it is back"
    ),
    Code.QUEUE_FULL: Meaning(
        False, "the target reads too slowly and its queue is full", "send less before it answers"
    ),
    Code.UNDELIVERED: Meaning(
        False, "the target went away before it had read this", "send it again when it is back"
    ),
    Code.IDENTITY_CONFLICT: Meaning(
        False,
        "several machines use this identity and keep replacing each other",
        "give every machine its own identity: run 'abst init' in a new home on one of them",
    ),
    Code.RATE_LIMITED: Meaning(False, "this was asked for too often", "try again in a while"),
    Code.NO_WINDOW: Meaning(
        False,
        "no device waits to be paired there",
        "ask for a new code: one lasts a minute and is good for one try",
    ),
    Code.CIRCUITS_FULL: Meaning(
        False, "there is no room for another circuit", "close one, or try again in a while"
    ),
    Code.NO_GROUP: Meaning(
        False, "this realm has no such group", "see whether it is the realm where the group is"
    ),
    Code.WRONG_PROOF: Meaning(
        False,
        "the proof of the group's key is wrong",
        "ask a member for the group's keys",
    ),
    Code.WRONG_EPOCH: Meaning(
        False,
        "the group is in another epoch",
        "wait for a member that gives this device the newest key",
    ),
    Code.NOT_JOINED: Meaning(
        False, "this device has not joined the group", "join it, and try again"
    ),
    Code.GROUPS_FULL: Meaning(
        False,
        "there is no room for another group or member",
        "leave a group, or ask who runs the realm for more",
    ),
    Code.WRONG_REVISION: Meaning(
        False,
        "the value has changed meanwhile",
        "look at the newest value, and decide again",
    ),
    Code.VALUES_FULL: Meaning(
        False,
        "the group has as many values, or bytes, as it may",
        "delete some, or ask who runs the realm for more",
    ),
    Code.NOT_KEPT: Meaning(
        False,
        "the realm could not write it to its disk",
        "try again in a while; nothing has changed",
    ),
    Code.VOLUME_SPENT: Meaning(
        False,
        "as many bytes as the realm allows in a month have been sent",
        "wait for the next month, or ask who runs the realm for more",
    ),
    Code.CIRCUIT_IDLE: Meaning(
        False, "nothing went over the circuit for too long", "open it again when it is needed"
    ),
    Code.CIRCUIT_SPENT: Meaning(
        False,
        "as many bytes as the realm allows have gone over circuits",
        "ask who runs the realm for more, or try again later",
    ),
    Code.WRONG_TOKEN: Meaning(
        True, "nobody waits for a leg with this token", "ask the realm for a new circuit"
    ),
    Code.CIRCUIT_REFUSED: Meaning(
        True,
        "the other device takes no circuit from this one",
        "see whether the two are still paired, and close connections that are not needed",
    ),
    Code.CIRCUIT_UNANSWERED: Meaning(
        True,
        "the other device did not open its end of the circuit in time",
        "see whether it is awake, and whether its network lets it out",
    ),
    Code.NO_SERVICE: Meaning(
        True,
        "the other device offers no such service",
        "see the spelling, and whether the program behind it is running there",
    ),
    Code.NOT_ADMITTED: Meaning(
        True,
        "the other device does not offer this service to this one",
        "ask its owner to admit this device",
    ),
    Code.WRONG_SECRET: Meaning(
        True,
        "the code or link is not the one that the other device has shown, or somebody is in "
        "between",
        "start again with a new code",
    ),
    Code.NOT_CONFIRMED: Meaning(
        True, "a person has ended the pairing", "start again if that was a mistake"
    ),
    Code.NOT_STORED: Meaning(
        True, "the pairing could not be stored", "see whether the disk is full, then start again"
    ),
    Code.PAIRING_LATE: Meaning(
        True, "the pairing took too long or was interrupted", "start again with a new code"
    ),
    Code.PAIRING_REFUSED: Meaning(
        True, "the other device has refused the pairing", "start again with a new code"
    ),
    Code.WRONG_PAIRING: Meaning(
        True,
        "the two devices hold different pairings",
        "forget the other device on both, and pair them again",
    ),
    Code.TLS_REQUIRED: Meaning(
        True, "this port speaks ABST over TLS 1.3", "connect with TLS and ALPN abst-realm/1"
    ),
    Code.WRONG_VERSION: Meaning(
        True, "the protocol version is not spoken here", "update the older of the two programs"
    ),
    Code.HELLO_FIRST: Meaning(True, "a packet came before Hello", "send Hello as the first packet"),
    Code.HELLO_LATE: Meaning(
        True, "no Hello came in time", "send Hello as soon as the connection is made"
    ),
    Code.WRONG_DEVICE: Meaning(
        True,
        "the device ID in Hello is not the one that the certificate proves",
        "send the ID of the key that the certificate carries",
    ),
    Code.WRONG_SOURCE: Meaning(
        True, "source_device is not the device of this connection", "send your own device ID"
    ),
    Code.MALFORMED: Meaning(
        True, "the bytes are no packet of this protocol", "compare them with the specification"
    ),
    Code.TOO_LARGE: Meaning(
        True, "the packet is larger than the limit", "keep to the limits in Back heartbeat"
    ),
    Code.SILENT: Meaning(
        True, "nothing was heard for too long", "send a heartbeat once each heartbeat_seconds"
    ),
    Code.STALLED: Meaning(
        True, "what was sent to this device was not read for too long", "read what arrives"
    ),
    Code.REPLACED: Meaning(
        True, "a newer connection of the same device took over", "nothing: the newer one is used"
    ),
    Code.REALM_FULL: Meaning(
        True, "the realm has no room for another connection", "come back in a while"
    ),
    Code.TOO_MANY_CONNECTIONS: Meaning(
        True,
        "there are as many connections of this device as there may be",
        "close some, or ask who runs the realm for more",
    ),
    Code.NOT_INVITED: Meaning(
        True,
        "this realm lets in who has been invited, and this device has not",
        "ask who runs the realm for an invitation: 'abst-realm invite' makes one",
    ),
    Code.WRONG_INVITATION: Meaning(
        True,
        "this invitation is not good here: it was used up, is too old, or was withdrawn",
        "ask who runs the realm for a new one: 'abst-realm invite' makes one",
    ),
    Code.NOT_LISTED: Meaning(
        True,
        "this realm lets in the devices on its list, and this one is not on it",
        "tell who runs the realm this device's ID, which 'abst id' shows, for 'abst-realm allow'",
    ),
    Code.REVOKED: Meaning(
        True,
        "who runs this realm has shut this device out",
        "ask them why, and tell them this device's ID, which 'abst id' shows",
    ),
    Code.RESTARTING: Meaning(
        True, "the realm is stopping or starting again", "come back in a while"
    ),
}


class AbstError(Exception):
    """Something that ABST cannot do; the text is one line that says why."""


class RemoteProtocolError(AbstError):
    """The other side broke the protocol.

    Attributes:
        code: the wire code that it is told.
        reason: what was wrong, in words that carry none of the packet's content.
    """

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class LocalProtocolError(AbstError):
    """This side asked for something that the protocol does not allow."""


class RealmRefusedError(AbstError):
    """A realm refused a packet or a connection.

    Attributes:
        code: the wire code, as text, since a newer realm may know more codes than this module.
        reason: the realm's words.
        retry_after_seconds: when to try again, or None when the realm did not say.
        target_device: the 16-byte device ID it is about, or None.
        epoch: the epoch in which the group is that it is about, or None.
    """

    def __init__(
        self,
        code: str,
        reason: str = "",
        retry_after_seconds: float | None = None,
        target_device: bytes | None = None,
        epoch: int | None = None,
    ) -> None:
        super().__init__(explain(code, reason))
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        self.target_device = target_device
        self.epoch = epoch


class IdentityError(AbstError):
    """A key or certificate is missing, unreadable, or not the one that was expected."""


class WrongKeyError(IdentityError):
    """The other side proved another key than the pinned one.

    Attributes:
        expected: what was pinned, as text.
        found: what the other side's certificate carries, as text.
    """

    def __init__(self, who: str, expected: str, found: str) -> None:
        super().__init__(f"{who} has another key than expected: wanted {expected}, found {found}")
        self.expected = expected
        self.found = found


class AddressError(AbstError):
    """A realm's address is not of the form abst://HOST:PORT/?pin=..."""


class ConfigurationError(AbstError):
    """A configuration is not usable.

    Attributes:
        file: the file's path, or a word such as "command line".
        key: the dotted name of the setting, or None when the file as a whole is meant.
        reason: what is wrong with it and what would be right.
    """

    def __init__(self, file: str, key: str | None, reason: str) -> None:
        super().__init__(f"{file}: {key}: {reason}" if key else f"{file}: {reason}")
        self.file = file
        self.key = key
        self.reason = reason


class PeerUnreachableError(AbstError):
    """A peer cannot be reached now; the text says what was tried."""


class SessionEndedError(AbstError):
    """A session ended otherwise than by agreement.

    Attributes:
        unacknowledged: how many packets the peer has not acknowledged; each may or may not have
            arrived.
    """

    def __init__(self, why: str, unacknowledged: int = 0) -> None:
        lost = f"; {unacknowledged} packets not acknowledged" if unacknowledged else ""
        super().__init__(f"the session ended: {why}{lost}")
        self.unacknowledged = unacknowledged


class StreamError(AbstError):
    """A stream was not opened, or has ended otherwise than by agreement; the text says why.

    Attributes:
        code: the wire code of whoever refused it, or None.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class PairingError(AbstError):
    """Two devices are not paired.

    Attributes:
        code: the wire code that says why.
        theirs: whether the other device said so.
    """

    def __init__(self, code: str, *, theirs: bool = False) -> None:
        super().__init__(f"not paired: {explain(code)}")
        self.code = code
        self.theirs = theirs


class GroupError(AbstError):
    """Something is not possible in a peer group; the text says why and what to do."""


class MissingEpochError(GroupError):
    """Something cannot be read, or done, without the key of a group's newer epoch.

    It heals by itself once a member has given this device the key.

    Attributes:
        epoch: the number of the missing epoch.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"this device has not got the group's key of epoch {epoch} yet: "
            "it comes from another member, unless this device was removed"
        )
        self.epoch = epoch


class ValueConflictError(GroupError):
    """A value was not the one that a change was made for; nothing has changed.

    Attributes:
        value: the current value, or None when there is none.
        revision: its revision, 0 when there is none.
    """

    def __init__(self, value: bytes | None, revision: int) -> None:
        super().__init__(f"the value has changed meanwhile: it is at revision {revision}")
        self.value = value
        self.revision = revision


class DishonestRealmError(GroupError):
    """What a realm has answered cannot be true; the text names what was seen.

    Attributes:
        kind: one of ``rolled_back``, ``wrong_name``, ``broken_history``, ``forked``, ``forged``.
        seen: what was seen, in words.
    """

    def __init__(self, kind: str, seen: str) -> None:
        super().__init__(f"the realm is not honest ({kind}): {seen}")
        self.kind = kind
        self.seen = seen


class DatabaseError(AbstError):
    """A database file cannot be used; the text names the file and says why."""


class NotTrustedError(AbstError):
    """One of two devices does not trust the other.

    Attributes:
        theirs: True when it is the other device that does not trust this one.
    """

    def __init__(self, message: str, *, theirs: bool) -> None:
        super().__init__(message)
        self.theirs = theirs


def explain(code: str, reason: str = "") -> str:
    """Return one line for people: what a code means, what was said, what to do."""
    try:
        meaning = MEANINGS[Code(code)]
    except ValueError:
        return f"{code}: {reason}" if reason else code
    detail = f" ({reason})" if reason and reason != meaning.sentence else ""
    return f"{meaning.sentence}{detail}; {meaning.remedy}"
