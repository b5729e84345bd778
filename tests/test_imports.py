"""
The direction of imports, held by reading the source.

Imports point one way: pure modules <- identity, tls <- device, realm <- agent <- cli and the taps.
To add a rule, add a row to `RULES`; to declare a module free of I/O, add it to `PURE`. Modules that
are not written yet may already be named.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from twisted.trial.unittest import TestCase

ROOT = Path(__file__).parent.parent

# Protocol without I/O: bytes and `now` in, events and bytes out.
PURE = (
    "abst.address",
    "abst.codec",
    "abst.device_id",
    "abst.errors",
    "abst.framing",
    "abst.group_proofs",
    "abst.packets",
    "abst.packets.*",
    "abst.shares",
    "abst.value_history",
    "abst.device.agreement",
    "abst.device.announcement",
    "abst.device.backoff",
    "abst.device.finding",
    "abst.device.groups.changes",
    "abst.device.groups.draft",
    "abst.device.groups.entries",
    "abst.device.groups.history",
    "abst.device.groups.keys",
    "abst.device.groups.known",
    "abst.device.groups.leap",
    "abst.device.groups.messages",
    "abst.device.groups.offers",
    "abst.device.groups.roster",
    "abst.device.groups.sealed_values",
    "abst.device.groups.sharing",
    "abst.device.groups.talk",
    "abst.device.groups.view",
    "abst.device.key_check",
    "abst.device.knock",
    "abst.device.pairing",
    "abst.device.paths",
    "abst.device.peers",
    "abst.device.realm_client",
    "abst.device.session",
    "abst.device.words",
    "abst.realm.access",
    "abst.realm.circuits",
    "abst.realm.client",
    "abst.realm.conversation",
    "abst.realm.counters",
    "abst.realm.deadlines",
    "abst.realm.decisions",
    "abst.realm.drops",
    "abst.realm.gate",
    "abst.realm.groups",
    "abst.realm.limits",
    "abst.realm.meter",
    "abst.realm.news",
    "abst.realm.outbox",
    "abst.realm.pairing_windows",
    "abst.realm.proxy_header",
    "abst.realm.quota",
    "abst.realm.rates",
    "abst.realm.realm",
    "abst.realm.refusal",
    "abst.realm.requests",
    "abst.realm.shaper",
    "abst.realm.store.interface",
    "abst.realm.store.memory",
    "abst.realm.stream",
    "abst.realm.switchboard",
    "abst.realm.values",
)

# In a pattern `*` is one part of a name, `**` any number of them.
DEVICE = ("abst.device", "abst.device.**")
REALM = ("abst.realm", "abst.realm.**")
AGENT = ("abst.agent", "abst.agent.**")
CLI = ("abst.cli", "abst.cli.**")
OPERATOR = ("abst.operator", "abst.operator.**")


class Where(Enum):
    """Which of a module's import statements a rule looks at."""

    ANYWHERE = "anywhere"
    ON_IMPORT = "when it is imported"  # not in functions, and not under TYPE_CHECKING


@dataclass(frozen=True)
class Rule:
    """What some modules must not import. Modules are patterns; what is forbidden are prefixes."""

    why: str
    modules: tuple[str, ...]
    forbidden: tuple[str, ...]
    where: Where = Where.ANYWHERE
    exempt: tuple[str, ...] = ()

    def covers(self, module: str) -> bool:
        """Tell whether the rule speaks about `module`."""
        return _matches(module, self.modules) and not _matches(module, self.exempt)

    def forbids(self, imported: str) -> bool:
        """Tell whether `imported`, or a package that it is in, is forbidden."""
        return any(imported == name or imported.startswith(name + ".") for name in self.forbidden)


RULES = (
    Rule(
        "pure modules do no I/O, and are given the time and the randomness",
        modules=PURE,
        forbidden=(
            *("twisted", "OpenSSL", "socket", "ssl", "select", "selectors", "asyncio", "threading"),
            *("subprocess", "time", "random", "secrets"),
        ),
    ),
    Rule(
        "the modules at the root know nothing of the parts that are built on them",
        modules=("abst.*",),
        forbidden=("abst.realm", "abst.device", "abst.agent", "abst.cli", "abst.operator"),
        exempt=(
            "abst.testing",
            "abst.testing.*",
            "abst.realm",
            "abst.device",
            "abst.agent",
            "abst.cli",
            "abst.operator",
        ),
    ),
    Rule(
        "importing abst is cheap: it fetches its public names when somebody asks",
        modules=("abst",),
        forbidden=(
            *("abst.realm", "abst.device", "abst.agent", "abst.cli", "abst.operator"),
            *("twisted", "OpenSSL"),
        ),
        where=Where.ON_IMPORT,
    ),
    Rule(
        "what applications test with is no part of the command line or the agent",
        modules=("abst.testing", "abst.testing.*"),
        forbidden=("abst.agent", "abst.cli", "abst.operator"),
    ),
    Rule(
        "a realm is not a device",
        modules=REALM,
        forbidden=("abst.device", "abst.agent", "abst.cli", "abst.operator", "abst.testing"),
    ),
    Rule(
        "a device is not a realm, and does not know who runs it",
        modules=DEVICE,
        forbidden=("abst.realm", "abst.agent", "abst.cli", "abst.operator", "abst.testing"),
    ),
    Rule(
        "the agent runs a device; the command line is its client, not its part",
        modules=AGENT,
        forbidden=("abst.realm", "abst.cli", "abst.operator", "abst.testing"),
    ),
    Rule(
        "the command line is for a device's owner, and not for who runs a realm",
        modules=CLI,
        forbidden=("abst.operator",),
    ),
    Rule(
        "who runs a realm needs no device",
        modules=OPERATOR,
        forbidden=("abst.device", "abst.agent", "abst.testing"),
    ),
    Rule(
        "a command starts fast: it fetches Twisted when it needs it",
        modules=(*CLI, *OPERATOR),
        forbidden=("twisted",),
        where=Where.ON_IMPORT,
    ),
    Rule(
        "the reactor is an argument: who imports abst chooses it",
        modules=("**",),
        forbidden=("twisted.internet.reactor",),
        where=Where.ON_IMPORT,
    ),
    Rule(
        "every command of twistd imports the plugin, whether it is for ABST or not",
        modules=("twisted.plugins.*",),
        forbidden=("abst", "twisted.internet.reactor"),
        where=Where.ON_IMPORT,
    ),
    Rule(
        "one place knows pyOpenSSL",
        modules=("**",),
        forbidden=("OpenSSL",),
        exempt=("abst.tls", "abst.tls_acceptor", "abst.tls_socket"),
    ),
)


@dataclass(frozen=True)
class Import:
    """One imported name, written in full, and where it stands."""

    name: str
    line: int
    on_import: bool


def _matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(_expression(pattern), module) for pattern in patterns)


def _expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^.]+")


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """List what a module imports, in `package`, which relative imports are relative to."""
    pending: list[tuple[ast.AST, bool]] = [(tree, True)]
    while pending:
        node, on_import = pending.pop()
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, node.lineno, on_import)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.rsplit(".", level - 1)[0] if level else ""
                origin = ".".join(filter(None, (base, module)))
                for alias in names:
                    yield Import(f"{origin}.{alias.name}", node.lineno, on_import)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pending += [(child, False) for child in ast.iter_child_nodes(node)]
            case ast.If(test=test) if _is_type_checking(test):
                pending += [(child, False) for child in node.body]
                pending += [(child, on_import) for child in node.orelse]
            case _:
                pending += [(child, on_import) for child in ast.iter_child_nodes(node)]


def find_violations(root: Path) -> list[str]:
    """Read every module of ABST under `root`, and say which imports break which rule."""
    violations = []
    for path in sorted([*root.glob("abst/**/*.py"), *root.glob("twisted/plugins/*.py")]):
        module = _module_name(path, root)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        rules = [rule for rule in RULES if rule.covers(module)]
        for found in _imports(ast.parse(path.read_bytes(), str(path)), package):
            place = f"{path.relative_to(root)}:{found.line}: {module} imports {found.name}"
            violations += [
                f"{place}: {rule.why}"
                for rule in rules
                if rule.forbids(found.name) and (found.on_import or rule.where is Where.ANYWHERE)
            ]
            if module in PURE and _is_impure(found.name):
                violations.append(f"{place}: a pure module imports only pure modules of abst")
    return violations


def _is_impure(imported: str) -> bool:
    # `from abst.errors import AbstError` and `from abst import errors` both name something in PURE.
    if not imported.startswith("abst."):
        return False
    return not any(imported == name or imported.startswith(name + ".") for name in PURE)


class ImportDirectionTests(TestCase):
    """The checkout keeps the rules."""

    def test_every_import_points_the_right_way(self) -> None:
        self.assertEqual([], find_violations(ROOT))

    def test_every_folder_of_tests_is_a_package(self) -> None:
        """trial passes over a folder without `__init__.py`, and its tests would never run."""
        folders = {path.parent for path in (ROOT / "tests").glob("**/test_*.py")}
        self.assertEqual([], [str(f) for f in folders if not (f / "__init__.py").exists()])

    def test_twisted_and_its_plugins_are_no_packages_here(self) -> None:
        """An `__init__.py` there would hide the real Twisted."""
        self.assertFalse((ROOT / "twisted" / "__init__.py").exists())
        self.assertFalse((ROOT / "twisted" / "plugins" / "__init__.py").exists())


class LoadedModulesTests(TestCase):
    """What reading cannot tell: what an import brings along through others."""

    def loaded_by(self, *modules: str) -> set[str]:
        """Import `modules` in a process of its own; return the names of everything it loaded."""
        script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
        script += "print(*sys.modules, sep='\\n')"
        process = subprocess.run(
            [sys.executable, "-c", script, *modules],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(0, process.returncode, process.stderr)
        return set(process.stdout.split())

    def existing(self, *patterns: str) -> list[str]:
        """Return the names of the modules that exist in the checkout."""
        names = [_module_name(path, ROOT) for path in sorted(ROOT.glob("abst/**/*.py"))]
        return [n for n in names if _matches(n, patterns) and not n.endswith("__main__")]

    def test_pure_modules_at_the_root_load_no_twisted(self) -> None:
        pure = self.existing(*(name for name in PURE if name.count(".") == 1))
        self.assertEqual(set(), self.loaded_by(*pure) & {"twisted", "OpenSSL", "asyncio"})

    def test_the_library_loads_no_reactor(self) -> None:
        library = self.existing("abst", "abst.**")
        self.assertNotIn("twisted.internet.reactor", self.loaded_by(*library))

    def test_the_command_line_loads_no_twisted(self) -> None:
        commands = self.existing(*CLI, *OPERATOR)
        self.assertEqual(set(), self.loaded_by(*commands) & {"twisted", "OpenSSL"})


class CheckerTests(TestCase):
    """The checker sees each kind of mistake: every rule, broken once."""

    def violations_of(self, path: str, source: str) -> list[str]:
        """Check a tree in which `path` is the only module."""
        root = Path(self.mktemp())
        module = root / path
        module.parent.mkdir(parents=True)
        module.write_text(source)
        return find_violations(root)

    def assert_broken(self, path: str, source: str, why: str) -> None:
        """Assert that `source` at `path` breaks exactly one rule, the one that says `why`."""
        violations = self.violations_of(path, source)
        self.assertEqual(1, len(violations), violations)
        self.assertIn(why, violations[0])

    def test_each_rule_is_enforced(self) -> None:
        for path, source, why in (
            ("abst/codec.py", "def f():\n    import time", "pure modules do no I/O"),
            ("abst/packets.py", "from twisted.internet import defer", "pure modules do no I/O"),
            ("abst/codec.py", "from abst import identity", "imports only pure modules"),
            ("abst/codec.py", "from abst.identity import Identity", "imports only pure modules"),
            ("abst/codec.py", "from .identity import Identity", "imports only pure modules"),
            ("abst/realm/outbox.py", "from . import protocol", "imports only pure modules"),
            ("abst/identity.py", "def f():\n    import abst.device", "modules at the root"),
            ("abst/__init__.py", "from abst.device import Device", "importing abst is cheap"),
            ("abst/testing.py", "from abst.agent import tap", "what applications test with"),
            ("abst/realm/protocol.py", "from abst.device import Device", "a realm is not a device"),
            ("abst/device/link.py", "from abst import realm", "a device is not a realm"),
            ("abst/device/link.py", "from ..agent import tap", "a device is not a realm"),
            ("abst/agent/tap.py", "import abst.realm.tap", "the agent runs a device"),
            ("abst/cli/ping.py", "from twisted.internet import task", "a command starts fast"),
            ("abst/cli/ping.py", "from abst.operator import lines", "for a device's owner"),
            ("abst/operator/stats.py", "def f():\n    import abst.device", "needs no device"),
            ("abst/operator/stats.py", "from twisted.internet import task", "starts fast"),
            ("abst/realm/tap.py", "import abst.operator.place", "a realm is not a device"),
            ("abst/device/link.py", "from twisted.internet import reactor", "the reactor is"),
            ("abst/device/link.py", "class A:\n    import twisted.internet.reactor", "the reactor"),
            ("twisted/plugins/abst_plugin.py", "import abst.realm.tap", "imports the plugin"),
            ("abst/device/channel.py", "from OpenSSL import SSL", "one place knows pyOpenSSL"),
        ):
            self.assert_broken(path, source, why)

    def test_what_is_right_passes(self) -> None:
        lazily = "def f():\n    from twisted.internet import reactor, task"
        for_types = "if TYPE_CHECKING:\n    from twisted.internet.defer import Deferred"
        for path, source in (
            ("abst/codec.py", "import msgpack\nfrom abst.errors import AbstError"),
            ("abst/__init__.py", "def __getattr__(name):\n    from abst.device import Device"),
            ("abst/agent/tap.py", "from abst.device import Device"),
            ("abst/testing.py", "from abst.device import Device\nfrom abst.realm import protocol"),
            ("abst/tls.py", "from OpenSSL import SSL"),
            ("abst/device/link.py", lazily),
            ("abst/cli/ping.py", lazily),
            ("abst/cli/ping.py", for_types),
            ("abst/cli/ping.py", "from abst.agent import client"),
            ("twisted/plugins/abst_plugin.py", "from twisted.application import service"),
        ):
            self.assertEqual([], self.violations_of(path, source))
