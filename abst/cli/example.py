"""Commands whose help ends with an example that can be typed as it stands."""

from __future__ import annotations

from typing import Any

import click


class WithExample(click.Command):
    """A command with an example.

    Args:
        example: one or more lines, as a person types them.
    """

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example under the options."""
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class GroupWithExample(WithExample, click.Group):
    """A group of commands with an example."""
