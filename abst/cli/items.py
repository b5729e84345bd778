"""How a message or a file that arrived, or a group that is offered, is shown to a person."""

from __future__ import annotations

import datetime
from typing import Any

from abst.cli.output import human_size, printable


def item_line(item: dict[str, Any]) -> str:
    """Return an item as lines: only the first begins with a time, whatever a peer writes."""
    head = f"{local_time(item['received_at'])}  {printable(item['peer'])}"
    if item["kind"] in ("file", "folder"):
        size = human_size(item["size_bytes"])
        return f"{head}  sent a {item['kind']} of {size}: {printable(item['path'])}"
    if item["kind"] == "group offer":
        what = f"the {item['group_kind']} {item['group']}"
        return f"{head}  offers {printable(what)}: 'abst group accept' or 'abst group refuse'"
    if item["kind"] == "group message":
        head += f" in {printable(item['group'])}"
    first, *others = str(item["text"]).split("\n")
    return "\n    ".join([f"{head}: {printable(first)}", *map(printable, others)])


def local_time(text: str) -> str:
    """Return a time in ISO 8601 as people here read it."""
    try:
        moment = datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        return printable(text)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
