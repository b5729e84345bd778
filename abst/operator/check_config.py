"""``abst-realm check-config``: whether a realm could run with a configuration, without a realm."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abst.cli.example import WithExample
from abst.cli.output import json_option, note, printable, show, show_document
from abst.operator.place import Place

if TYPE_CHECKING:
    from abst.realm.config import Config

WRONG_STATUS = 1


@click.command(
    "check-config",
    cls=WithExample,
    example="abst-realm check-config\nabst-realm check-config new-realm.toml",
)
@click.argument("file", required=False, type=click.Path(readable=False, path_type=Path))
@json_option
@click.pass_obj
@click.pass_context
def command(ctx: click.Context, place: Place, file: Path | None, as_json: bool) -> None:
    """Tell whether a realm could run with the configuration FILE.

    Everything is checked that can be known without opening a port: every setting, and that the
    certificate and its key can be read and belong together. What differs from the defaults is
    shown. Without FILE it is the configuration of the realm.
    """
    from abst.errors import AbstError

    path = file or place.config
    problem = None
    settings: dict[str, Any] = {}
    warnings: list[str] = []
    try:
        settings, warnings = check(path)
    except AbstError as error:
        problem = str(error)
        if file is None and not path.exists():
            problem += ": 'abst-realm check-config FILE' checks another one"
    if as_json:
        document = {"file": str(path), "problem": problem, "warnings": warnings}
        show_document({**document, "settings": settings})
        if problem is not None:
            ctx.exit(WRONG_STATUS)
        return
    if problem is not None:
        raise AbstError(problem)
    show(f"{printable(path)} is right{'' if settings else ', and everything is as by default'}")
    for name, value in settings.items():
        show(f"{printable(name)} = {printable(json.dumps(value, ensure_ascii=False))}")
    for warning in warnings:
        note(f"abst-realm: {printable(warning)}")


def check(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what a configuration sets otherwise than by default, and what is doubtful in it.

    Raises:
        AbstError: a realm could not run with it; the text says why.
    """
    from abst.identity import Identity
    from abst.realm.config import Config, load
    from abst.realm.settings import different, settings_of
    from abst.tls import realm_server_context

    config = load(path, is_adopting=False)
    if config.certificate is not None:
        # The realm's own key is not needed to see whether the two belong together.
        realm_server_context(Identity.generate(), str(config.certificate), str(config.key))
    found = settings_of(config)
    settings = {name: found[name] for name in different(Config(), config)}
    return settings, list(_doubts(config))


def _doubts(config: Config) -> list[str]:
    doubts = []
    if len(set(config.listen)) < len(config.listen):
        doubts.append("listen: the same place stands there twice, and can be opened once")
    if config.certificate is not None:
        end = _end_of(config.certificate)
        now = datetime.datetime.now(datetime.UTC)
        if end < now:
            doubts.append(f"certificate: it was good until {end:%Y-%m-%d %H:%M} UTC")
    if config.state.exists() and not config.state.is_dir():
        doubts.append(f"state: {config.state} is no folder")
    return doubts


def _end_of(certificate: Path) -> datetime.datetime:
    """Return until when the first certificate of a chain is good."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
