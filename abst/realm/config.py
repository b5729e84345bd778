"""A realm's configuration: a TOML file and the command line, checked before anything starts.

Owns which settings exist and what they may be. A setting that is unknown or not usable is refused
with the file, the key and the reason; nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.endpoints import serverFromString

from abst.address import DEFAULT_PORT, format_host_port, parse_host_port
from abst.errors import AddressError, ConfigurationError
from abst.logs import Level, LogFormat
from abst.realm.access import Mode
from abst.realm.limits import Limits
from abst.realm.state_folder import default_state
from abst.realm.web.place import place_of

MAX_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """What a realm is started with.

    Attributes:
        listen: Twisted endpoint descriptions, each for one port.
        state: the folder of the realm's identity.
        host: the name or address that devices shall use, or None to find one.
        certificate: a PEM chain to show instead of the identity's own certificate, or None.
        key: its PEM key, or None.
        access: which devices may use the realm.
        blur_addresses: whether addresses of devices are shortened wherever they are shown.
        trusted_proxies: the IP addresses that are believed when they say for whom they connect.
        web: where it shows its status and metrics, or None for nowhere.
        log: how its log is written.
        log_level: from which level on.
        limits: what devices may use.
    """

    listen: tuple[str, ...] = field(default_factory=lambda: (default_endpoint(),))
    state: Path = field(default_factory=default_state)
    host: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    access: Mode = Mode.INVITED
    blur_addresses: bool = True
    trusted_proxies: tuple[str, ...] = ()
    web: str | None = None
    log: LogFormat = LogFormat.AUTO
    log_level: Level = Level.INFO
    limits: Limits = field(default_factory=Limits)


def default_endpoint() -> str:
    """Return the endpoint of the default port: IPv6 and IPv4 in one where the machine can."""
    if socket.has_dualstack_ipv6():
        return f"tcp6:{DEFAULT_PORT}"
    return f"tcp:{DEFAULT_PORT}"


def load(path: Path, *, is_adopting: bool = True) -> Config:
    """Return the configuration that a TOML file holds.

    Args:
        path: the file.
        is_adopting: whether this process has been given the ports that systemd opens, if any.

    Raises:
        ConfigurationError: the file cannot be read, or a setting in it is not usable.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(str(path), None, error.strerror or "cannot be read") from None
    try:
        if len(text) > MAX_CONFIG_BYTES:
            raise ConfigurationError(str(path), None, f"larger than {MAX_CONFIG_BYTES} bytes")
        settings = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(str(path), None, f"not TOML: {error}") from None
    return from_settings(settings, str(path), is_adopting=is_adopting)


def from_settings(settings: Mapping[str, Any], file: str, *, is_adopting: bool = True) -> Config:
    """Return the configuration of already parsed settings; ``file`` names them in errors.

    Raises:
        ConfigurationError: a key is unknown, or its value is not usable.
    """
    checks: dict[str, Callable[[str, Any, str], Any]] = {
        "listen": partial(_endpoints, is_adopting),
        "state": _path,
        "host": _host,
        "certificate": _path,
        "key": _path,
        "access": partial(_choice, Mode),
        "blur_addresses": _switch,
        "trusted_proxies": _addresses,
        "web": _web,
        "log": partial(_choice, LogFormat),
        "log_level": partial(_choice, Level),
        "limits": _limits,
    }
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in checks:
            raise ConfigurationError(file, key, f"unknown; known are {', '.join(checks)}")
        found[key] = checks[key](key, value, file)
    config = Config(**found)
    if (config.certificate is None) != (config.key is None):
        missing = "key" if config.key is None else "certificate"
        raise ConfigurationError(file, missing, "certificate and key go together")
    if not config.trusted_proxies and any(map(_is_behind_proxy, config.listen)):
        wants = "'listen' has haproxy:, so it has to have the addresses of the proxies"
        raise ConfigurationError(file, "trusted_proxies", wants)
    return config


def _is_behind_proxy(description: str) -> bool:
    return description.startswith("haproxy:")


def _text(key: str, value: Any, file: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(file, key, "needs a text that is not empty")
    return value


def _host(key: str, value: Any, file: str) -> str:
    text = _text(key, value, file)
    try:
        host, _ = parse_host_port(format_host_port(text, DEFAULT_PORT))
    except AddressError:
        reason = f"{text!r} is no name such as realm.example.org, and no IP address"
        raise ConfigurationError(file, key, reason) from None
    return host


def _choice(choices: type[StrEnum], key: str, value: Any, file: str) -> StrEnum:
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choices)
        raise ConfigurationError(file, key, f"{value!r} is none of {known}") from None


def _switch(key: str, value: Any, file: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(file, key, "needs true or false")
    return value


def _addresses(key: str, value: Any, file: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigurationError(file, key, 'needs a list such as ["192.0.2.1"]')
    return tuple(_address(key, item, file) for item in value)


def _address(key: str, value: Any, file: str) -> str:
    text = _text(key, value, file)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigurationError(file, key, f"{text!r} is no IP address") from None


def _path(key: str, value: Any, file: str) -> Path:
    text = _text(key, value, file)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigurationError(file, key, f"{text}: there is no such user") from None


def _endpoints(is_adopting: bool, key: str, value: Any, file: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ConfigurationError(file, key, 'needs a list such as ["tcp:42278"]')
    return tuple(_endpoint(is_adopting, key, item, file) for item in value)


def _endpoint(is_adopting: bool, key: str, value: Any, file: str) -> str:
    description = _text(key, value, file)
    if description.startswith("systemd:") and not is_adopting:
        return description  # Only the process that is given the ports can tell.
    try:
        # Nothing is opened, so no reactor is needed: the description is parsed.
        serverFromString(cast(Any, None), description)
    except Exception:
        example = "one looks like tcp:42278 or tcp:42278:interface=192.0.2.1"
        raise ConfigurationError(file, key, f"{description!r} is no endpoint; {example}") from None
    return description


def _web(key: str, value: Any, file: str) -> str:
    description = _text(key, value, file)
    try:
        place_of(description)
    except ValueError as error:
        raise ConfigurationError(file, key, str(error)) from None
    return description


def _limits(key: str, value: Any, file: str) -> Limits:
    if not isinstance(value, dict):
        raise ConfigurationError(file, key, "needs a table")
    kinds = {item.name: item.type for item in dataclasses.fields(Limits)}
    for name, number in value.items():
        if name not in kinds:
            raise ConfigurationError(
                file, f"{key}.{name}", f"unknown; known are {', '.join(kinds)}"
            )
        whole = kinds[name] == "int"
        if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
            raise ConfigurationError(
                file, f"{key}.{name}", "needs a whole number" if whole else "needs a number"
            )
    try:
        return Limits(**value)
    except ValueError as error:
        name, _, reason = str(error).partition(": ")
        raise ConfigurationError(file, f"{key}.{name}", reason) from None
