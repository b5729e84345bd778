"""Which realm a command is about, and how it is asked.

Owns the search for the state folder. The configuration is read for its ``state`` alone: while
somebody is writing at it, commands still reach the realm that runs.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from abst.control_client import Call, Called
from abst.errors import AbstError, ConfigurationError
from abst.realm.state_folder import CONTROL_SOCKET, default_state

SYSTEM_CONFIG: Final = Path("/etc/abst/realm.toml")
SYSTEM_STATE: Final = Path("/var/lib/abst-realm")

QUICK_SECONDS: Final = 20.0
"""How long a realm may take that need not wait for anybody."""

PATIENT_SECONDS: Final = 600.0
"""How long one may take that copies or counts all it has."""

MAX_CONFIG_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a realm is.

    Attributes:
        state: its state folder.
        config: its configuration file; there need not be one.
    """

    state: Path
    config: Path

    def ask(
        self, command: str, timeout_seconds: float = QUICK_SECONDS, **arguments: Any
    ) -> dict[str, Any]:
        """Return the realm's answer.

        Raises:
            AbstError: it does not run, may not be asked, or refuses; the text says what to do.
        """
        with self.call(command, timeout_seconds, **arguments) as call:
            return call.result

    def ask_pages(
        self, command: str, name: str, key: str, **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield all that a realm lists, which it tells page by page.

        Args:
            command: what is asked.
            name: under which name the answer has the list.
            key: by which of its values an item is told from the others.
            **arguments: what else is asked.
        """
        after = ""
        while True:
            answer = self.ask(command, PATIENT_SECONDS, after=after, **arguments)
            yield from answer[name]
            if not answer["more"]:
                return
            after = answer[name][-1][key]

    def call(self, command: str, timeout_seconds: float, **arguments: Any) -> Call:
        """Return a request that is under way.

        Raises:
            AbstError: as ``ask``.
        """
        realm = Called(
            self.state / CONTROL_SOCKET,
            "the realm",
            not_running=f"no realm is running at {self.state}: start it with "
            "'systemctl start abst-realm' or 'twistd -n abst-realm', or name another with --state",
            log="'journalctl -u abst-realm', or where it was started",
            forbidden="only root and the realm's own user may ask the realm at "
            f"{self.state}: try sudo",
        )
        return Call(realm, command, arguments, timeout_seconds)


def find_place(
    state: Path | None,
    config: Path | None,
    environment: Mapping[str, str] = os.environ,
    system_config: Path = SYSTEM_CONFIG,
    system_state: Path = SYSTEM_STATE,
) -> Place:
    """Return the realm that is meant.

    Args:
        state: the state folder that was named, or None.
        config: the configuration file that was named, or None.
        environment: where the user's own state folder is found.
        system_config: the service's configuration.
        system_state: the service's state folder, if the configuration names none.

    Raises:
        AbstError: a file was named that cannot be read, or a home folder that is nobody's.
    """
    if state is not None:
        return Place(expanded(state), config or system_config)
    if config is not None:
        named = _state_in(config)
        if named is not None:
            return Place(named, config)
    else:
        named = None
        with contextlib.suppress(AbstError):
            named = _state_in(system_config)
    service = Place(named or system_state, config or system_config)
    own = Place(default_state(environment), config or system_config)
    if os.path.exists(service.state / CONTROL_SOCKET):
        return service
    if os.path.exists(own.state / CONTROL_SOCKET):
        return own
    is_roots = os.geteuid() == 0 and service.state.is_dir()
    return service if is_roots or _is_hidden(service.state / CONTROL_SOCKET) else own


def expanded(path: Path) -> Path:
    """Return a path with the home folder that a ``~`` stands for.

    Raises:
        AbstError: it is nobody's.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise AbstError(f"{path}: there is no such user") from None


def _is_hidden(path: Path) -> bool:
    """Tell whether this user may not even know if there is such a file."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _state_in(config: Path) -> Path | None:
    """Return the state folder that a configuration names, or None.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    try:
        with config.open("rb") as file:
            settings = tomllib.loads(file.read(MAX_CONFIG_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(str(config), None, error.strerror or "cannot be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(str(config), None, f"not TOML: {error}") from None
    state = settings.get("state")
    if state is None:
        return None
    if not isinstance(state, str) or not state:
        raise ConfigurationError(str(config), "state", "needs a text that is not empty")
    return expanded(Path(state))
