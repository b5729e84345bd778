"""The limits beside the fields of packets, and other numbers (spec: packets.md). Pure."""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1

MAX_PACKET_BYTES: Final = 65536
MAX_PACKET_BYTES_BEFORE_HELLO: Final = 4096
HEADROOM_BYTES: Final = 128
"""What a Send packet needs beside its content, rounded up: keys, IDs and lengths."""

MAX_NAME_CHARACTERS: Final = 64
MAX_REASON_CHARACTERS: Final = 300
MAX_CODE_CHARACTERS: Final = 40
MAX_INVITATION_CHARACTERS: Final = 200
MAX_ADDRESS_CHARACTERS: Final = 500
MAX_LIST_ITEMS: Final = 16
MAX_LIMITS: Final = 32
MAX_COUNT: Final = 2**63 - 1
NONCE_BYTES: Final = 32
HASH_BYTES: Final = 32
MAX_LEG_BYTES: Final = 256
"""The largest packet with which a leg may begin."""

SPAKE2_SHARE_BYTES: Final = 33
MAX_WORD_CHARACTERS: Final = 16
SESSION_ID_BYTES: Final = 16
CHANNEL_NUMBER_BYTES: Final = 8
CIRCUIT_ID_BYTES: Final = 8
TOKEN_BYTES: Final = 32
MAX_SERVICE_CHARACTERS: Final = 64

PUBLIC_KEY_BYTES: Final = 32
"""A raw Ed25519 public key (RFC 8032)."""

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_MEMBERS: Final = 3000
"""In one list; they fit a packet."""

MAX_EPOCHS: Final = 1024
MAX_ROSTER_ENTRY_BYTES: Final = 1024
MAX_ROSTER_ENTRIES: Final = 48
"""In one packet."""

VALUE_NAME_BYTES: Final = 32
"""Of a name as the realm sees it."""

MAX_VALUE_BYTES: Final = 65536
MAX_NAME_BYTES: Final = 1024
"""Of a value and of its name, before they are sealed."""

MAX_SEALED_VALUE_BYTES: Final = 67584
"""64 KiB of value, 1 KiB of name, and what encrypts and signs them."""

MAX_VALUE_PACKET_BYTES: Final = 69632
"""The largest packet about values; it holds the largest sealed value."""

MAX_CHANGES: Final = 512
"""In one packet."""

FIRST_APPLICATION_ID: Final = 5
LAST_PACKET_ID: Final = 255
