"""``abst-realm reload``: have the realm read its configuration anew."""

from __future__ import annotations

import click

from abst.cli.example import WithExample
from abst.cli.output import json_option, note, printable, show, show_document
from abst.operator.place import PATIENT_SECONDS, Place


@click.command(cls=WithExample, example="abst-realm check-config && abst-realm reload")
@json_option
@click.pass_obj
def command(place: Place, as_json: bool) -> None:
    """Have the realm read its configuration and its certificate anew.

    No connection ends, but those of devices that may not use the realm any more. When anything is
    wrong, nothing changes. 'systemctl reload abst-realm' and the signal HUP do the same.
    """
    answer = place.ask("reload", PATIENT_SECONDS)
    if as_json:
        show_document(answer)
        return
    show(f"changed: {printable(', '.join(answer['changed'])) or 'nothing'}")
    if answer["restart"]:
        note(f"the realm has to be started again for: {printable(', '.join(answer['restart']))}")
