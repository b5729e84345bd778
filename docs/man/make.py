"""Writes the manual pages from what the programs say about themselves.

``python docs/man/make.py FOLDER`` puts abst.1, abst-realm.8 and realm.toml.5 into a folder. They
are made anew with every package, so that they cannot say anything else than the programs. What is
said nowhere else stands in the files beside this one, and ends the pages.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import click

from abst.cli import program as device_program
from abst.operator import program as realm_program
from abst.realm.config import Config
from abst.realm.limits import Limits
from abst.realm.tap import Options

FOLDER: Final = Path(__file__).parent

SETTINGS: Final = {
    "listen": (
        "list of texts",
        "Where to listen: Twisted endpoint descriptions, one for each port. By default TCP port "
        '42278 on all addresses. "systemd:domain=INET6:index=0" takes a port that systemd has '
        "opened.",
    ),
    "state": (
        "text",
        "The folder of the realm's key and of the groups' values. By default $STATE_DIRECTORY, "
        "which is /var/lib/abst-realm for the service, else ~/.local/state/abst-realm.",
    ),
    "host": (
        "text",
        "The name or address that devices shall use; it stands in the address that the realm "
        "prints. By default the address from which this machine reaches the world.",
    ),
    "certificate": (
        "text",
        "A file with a PEM certificate chain to show instead of the realm's self-signed one. "
        "Devices then check the host name, and the address needs no pin. It needs key as well.",
    ),
    "key": ("text", "A file with the certificate's PEM key."),
    "access": (
        "text",
        'Which devices may use the realm. "invited", the default: those that come with an '
        'invitation, and those that are allowed by their ID. "listed": those that are allowed by '
        'their ID. "open": all. Who was revoked may not, whatever stands here.',
    ),
    "blur_addresses": (
        "true or false",
        "Whether devices' addresses are shortened wherever they are shown. By default true.",
    ),
    "trusted_proxies": (
        "list of texts",
        "The IP addresses of proxies that are believed when they say whose connection they pass "
        "on. By default none.",
    ),
    "log": (
        "text",
        'How the log is written. "auto", the default: to the journal, with fields, where '
        'standard error goes there, and else as "lines". "json": one object a line. '
        '"journal": to the journal, or the realm does not start.',
    ),
    "log_level": (
        "text",
        'From which level on something is logged: "debug", "info", which is the default, '
        '"warn" or "error".',
    ),
    "web": (
        "text",
        "Where the realm shows its page, its status and its metrics, as a Twisted endpoint "
        'description: a port of the machine itself, "tcp:42279:interface=127.0.0.1", or a Unix '
        'socket, "unix:/run/abst-realm/web". Nowhere by default.',
    ),
}
"""The settings outside [limits]: what each one takes, and what it does."""


def escape(text: str) -> str:
    """Return text as roff takes it, in one paragraph."""
    plain = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; one that begins with a backspace keeps its lines."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            lines = [escape(line) for line in paragraph.splitlines()[1:]]
            yield ".nf\n" + "\n".join(lines) + "\n.fi"
        else:
            yield escape(paragraph)


def example(text: str) -> str:
    """Return lines as a person types them."""
    return ".PP\n.RS\n.nf\n" + "\n".join(map(escape, text.splitlines())) + "\n.fi\n.RE\n"


def argument_name(argument: click.Parameter) -> str:
    """Return how a command's usage names an argument, in every version of click."""
    name = argument.metavar or (argument.name or "").upper()
    if isinstance(argument.type, click.Choice) and not argument.metavar:
        name = "|".join(argument.type.choices)
    if argument.nargs == -1 and not argument.metavar:
        name += "..."
    return name if argument.required else f"[{name}]"


def option_entry(option: click.Option) -> str:
    """Return an option with its explanation."""
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in option.opts)
    if not option.is_flag:
        value = option.metavar or (option.name or "").upper()
        names += f" \\fI{escape(value)}\\fR"
    return f".TP\n{names}\n{escape(option.help or '')}\n"


def options_of(command: click.Command) -> str:
    """Return the options of a command."""
    shown = [item for item in command.params if isinstance(item, click.Option)]
    return "".join(option_entry(option) for option in shown if not option.hidden)


def command_text(command: click.Command, path: str) -> str:
    """Return what is to be said of one command, and of those below it."""
    words = [f"\\fB{escape(path)}\\fR"]
    if any(isinstance(item, click.Option) for item in command.params):
        words.append("[\\fIoptions\\fR]")
    arguments = [item for item in command.params if isinstance(item, click.Argument)]
    words += [f"\\fI{escape(argument_name(item))}\\fR" for item in arguments]
    if isinstance(command, click.Group):
        words.append("\\fIcommand\\fR")
    text = f".SS {' '.join(words)}\n"
    text += "".join(f".PP\n{paragraph}\n" for paragraph in paragraphs(command.help or ""))
    text += options_of(command)
    text += example(getattr(command, "example", ""))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            text += command_text(below, f"{path} {name}")
    return text


def commands_text(
    program: click.Group, name: str, sections: Mapping[str, tuple[str, ...]], example_text: str
) -> str:
    """Return what is to be said of a program: what it does, its options, its commands."""
    text = ".SH DESCRIPTION\n"
    text += "".join(f".PP\n{paragraph}\n" for paragraph in paragraphs(program.help or ""))
    text += example(example_text)
    text += ".SH OPTIONS\n" + options_of(program)
    context = click.Context(program)
    for section, names in sections.items():
        text += f".SH {section.upper()}\n"
        for below in names:
            command = program.get_command(context, below)
            assert command is not None
            text += command_text(command, f"{name} {below}")
    return text


def abst_1() -> str:
    """Return the manual page of the devices' command line."""
    text = '.TH ABST 1 "" ABST "User commands"\n'
    text += ".SH NAME\nabst \\- private communication between devices\n"
    text += ".SH SYNOPSIS\n\\fBabst\\fR [\\fIoptions\\fR] \\fIcommand\\fR ...\n"
    text += commands_text(
        device_program.program, "abst", device_program.SECTIONS, device_program.EXAMPLE
    )
    return text + (FOLDER / "abst.1.end").read_text("utf-8")


def abst_realm_8() -> str:
    """Return the manual page of the realm, and of its operator's command line."""
    text = '.TH ABST\\-REALM 8 "" ABST "System administration"\n'
    text += ".SH NAME\nabst\\-realm \\- relay between devices that cannot read what it relays\n"
    text += ".SH SYNOPSIS\n\\fBabst\\-realm\\fR [\\fIoptions\\fR] \\fIcommand\\fR ...\n.PP\n"
    text += "\\fBsystemctl\\fR \\fIstart\\fR|\\fIstop\\fR|\\fIrestart\\fR|\\fIreload\\fR|"
    text += "\\fIstatus\\fR \\fBabst\\-realm\\fR\n.PP\n"
    text += "\\fBtwistd3 \\-\\-nodaemon abst\\-realm\\fR [\\fIoptions\\fR]\n"
    text += commands_text(
        realm_program.program, "abst-realm", realm_program.SECTIONS, realm_program.EXAMPLE
    )
    text += (FOLDER / "abst-realm.8.service").read_text("utf-8")
    text += realm_options()
    return text + (FOLDER / "abst-realm.8.end").read_text("utf-8")


def realm_options() -> str:
    """Return the options of the service that twistd runs."""
    entries = [
        (str(name), short or "", text or "") for name, short, _, text in Options.optParameters
    ]
    entries.append(("listen", "l", (Options.opt_listen.__doc__ or "").strip()))
    entries.append(("version", "", (Options.opt_version.__doc__ or "").strip()))
    text = ""
    for name, short, meaning in entries:
        names = [f"\\-{short}"] if short else []
        names.append(f"\\-\\-{escape(name)}")
        value = "" if name == "version" else f"=\\fI{name.split('-')[-1].upper()}\\fR"
        text += ".TP\n" + ", ".join(f"\\fB{item}\\fR" for item in names) + value + "\n"
        text += f"{escape(meaning)}\n"
    return text


def limit_texts() -> dict[str, str]:
    """Return what the code says of each limit."""
    lines = inspect.cleandoc(Limits.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", lines, re.MULTILINE)
    return {name: text[0].upper() + text[1:] for name, text in entries}


def realm_toml_5() -> str:
    """Return the manual page of the realm's configuration."""
    text = '.TH REALM.TOML 5 "" ABST "File formats"\n'
    text += ".SH NAME\nrealm.toml \\- configuration of an ABST realm\n"
    text += ".SH SYNOPSIS\n\\fI/etc/abst/realm.toml\\fR\n.SH DESCRIPTION\n"
    text += escape(
        "A TOML file. Every setting may be left out. A setting that is unknown or not usable "
        "keeps the realm from starting, with a line that names the file, the key and the reason."
    )
    text += "\n.SH SETTINGS\n"
    for field in dataclasses.fields(Config):
        if field.name != "limits":
            kind, what = SETTINGS[field.name]
            text += f".TP\n\\fB{field.name}\\fR ({kind})\n{escape(what)}\n"
    text += ".SH LIMITS\nThe limits stand in the section \\fB[limits]\\fR. "
    text += "The numbers here are the defaults.\n"
    texts = limit_texts()
    for limit in dataclasses.fields(Limits):
        text += f".TP\n\\fB{limit.name}\\fR = {limit.default}\n{escape(texts[limit.name])}\n"
    text += '.SH "SEE ALSO"\n\\fBabst\\-realm\\fR(8)\n'
    return text


def write(folder: Path) -> None:
    """Put all pages into a folder, which is made when it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "abst.1").write_text(abst_1(), "utf-8")
    (folder / "abst-realm.8").write_text(abst_realm_8(), "utf-8")
    (folder / "realm.toml.5").write_text(realm_toml_5(), "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/man/make.py FOLDER")
    write(Path(sys.argv[1]))
