"""What agents put into messages to a group (spec: agent.md, "Group messages"). Pure."""

from __future__ import annotations

from abst.agent.packets import MAX_MESSAGE_CHARACTERS, MESSAGE, is_well_formed
from abst.codec import decode, encode
from abst.errors import AbstError, RemoteProtocolError
from abst.packets import Application, parse_between_devices


def text_message(text: str) -> bytes:
    """Return the content of a group message that carries a text.

    Raises:
        AbstError: the text is too long.
    """
    if len(text) > MAX_MESSAGE_CHARACTERS:
        raise AbstError(f"a message has at most {MAX_MESSAGE_CHARACTERS} characters")
    return encode(Application(MESSAGE, {"text": text}))


def read_text(content: bytes) -> str | None:
    """Return the text that a group message carries; None when it is none of the agent's."""
    try:
        packet = parse_between_devices(decode(content))
    except RemoteProtocolError:
        return None
    if not isinstance(packet, Application) or packet.id != MESSAGE:
        return None
    if not is_well_formed(packet.id, packet.content):
        return None
    return str(packet.content["text"])
