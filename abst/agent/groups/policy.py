"""What happens to the groups that peers offer, as a device's owner has chosen it. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from abst.errors import AbstError


class OfferPolicy(StrEnum):
    """What ``abst group policy`` sets."""

    ACCEPT = "accept"
    """Offers of peers that a person has paired are accepted; the others wait."""

    ASK = "ask"
    """Every offer waits until somebody decides."""

    REFUSE = "refuse"
    """Every offer is refused."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the policy that a word means.

        Raises:
            AbstError: it means none.
        """
        try:
            return cls(text)
        except ValueError:
            raise AbstError(f"{text!r} is not one of {', '.join(cls)}") from None
