"""The page as it comes from the server, which is all there is for a browser without JavaScript.

Pure. The page's HTML says where each number belongs and how it is written; ``page.js`` reads the
same marks, and goes on from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any, Final

DASH: Final = "\u2013"
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_SPANS: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))

_NUMBER = re.compile(r'(data-path="([\w.]+)" data-format="(\w+)">)')
_SUMMARY = re.compile(r'(data-summary="(\w+)" data-format="(\w+)">)')
_CODES = re.compile(r'(data-codes="(\w+)">)')
_DEVICES = re.compile(r'(data-devices="(\w+)">)')


def render(template: str, status: Mapping[str, Any], host: str) -> str:
    """Return the page.

    Args:
        template: its HTML.
        status: how the realm is.
        host: the name that devices use for it, or "".
    """
    problems = [problem["text"] for problem in status["problems"]]
    state = state_of(len(problems))
    left_out = status["devices_left_out"]
    text = _NUMBER.sub(lambda mark: mark[1] + _shown(_find(status, mark[2]), mark[3]), template)
    text = _SUMMARY.sub(lambda mark: mark[1] + _summary(status["history"][mark[2]], mark[3]), text)
    text = _CODES.sub(lambda mark: mark[1] + _code_rows(status[mark[2]]), text)
    text = _DEVICES.sub(lambda mark: mark[1] + _device_rows(status[mark[2]]), text)
    return Template(text).substitute(
        title=escape(f"{host or 'Realm'}: {state}"),
        host=escape(host or "This realm"),
        state=state,
        bad=" bad" if problems else "",
        problems=_list(problems),
        left_out=f"and {count(left_out)} more" if left_out else "",
    )


def state_of(problems: int) -> str:
    """Return in a word or two whether all is well."""
    if not problems:
        return "All is well"
    return "1 problem" if problems == 1 else f"{problems} problems"


def count(number: float) -> str:
    """Return a number of things."""
    return f"{round(number):,}"


def rate(number: float) -> str:
    """Return how many there are in a second."""
    return f"{number:.1f}" if number < 10 else count(number)


def size(number: float) -> str:
    """Return a number of bytes."""
    unit = 0
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number /= 1000
        unit += 1
    digits = f"{number:.1f}" if unit and number < 10 else f"{number:.0f}"
    return f"{digits} {_UNITS[unit]}"


def time(seconds: float) -> str:
    """Return how long something took."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def span(seconds: float) -> str:
    """Return for how long something has been so."""
    for large, name, small, small_name in _SPANS:
        if seconds >= large:
            rest = int(seconds % large // small)
            return f"{int(seconds // large)} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{int(seconds)} s"


FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {
    "text": str,
    "count": count,
    "rate": rate,
    "bytes": size,
    "time": time,
    "span": span,
}
"""How a number is written, under the names that the page's HTML has for it."""


def _find(status: Any, path: str) -> Any:
    for name in path.split("."):
        if status is None:
            return None
        status = status[name]
    return status


def _shown(value: Any, how: str) -> str:
    return DASH if value is None else _escaped(FORMATS[how](value))


def _escaped(text: str) -> str:
    """Return a text for a place in HTML that is going to be a ``Template``."""
    return escape(text).replace("$", "$$")


def _summary(values: Sequence[float], how: str) -> str:
    if not values:
        return ""
    mean, most = _shown(sum(values) / len(values), how), _shown(max(values), how)
    return f"on average {mean}, at most {most}"


def _code_rows(counts: Mapping[str, int]) -> str:
    if not counts:
        return _none(2)
    return "".join(
        f'<tr><th scope="row">{_escaped(code.replace("_", " "))}</th>'
        f'<td class="number">{count(number)}</td></tr>'
        for code, number in counts.items()
    )


def _device_rows(devices: Sequence[Mapping[str, Any]]) -> str:
    if not devices:
        return _none(5)
    return "".join(
        f'<tr><th scope="row">{_escaped(device["id"])}</th><td>{span(device["seconds"])}</td>'
        f'<td class="number roomy">{count(device["packets"])}</td>'
        f'<td class="number">{size(device["bytes"])}</td>'
        f"<td>{_escaped(device['address']) or DASH}</td></tr>"
        for device in devices
    )


def _none(columns: int) -> str:
    return f'<tr><td class="none" colspan="{columns}">none</td></tr>'


def _list(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"
