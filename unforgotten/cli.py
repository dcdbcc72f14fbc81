"""The command line: one command per verb. It reads a recipe, calls the verb and prints; it computes nothing.

Nothing heavy is imported at the top: `--help` and `list` answer without loading torch.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unforgotten import __version__
from unforgotten.errors import UnforgottenError


class Commands(TyperGroup):
    """Every command runs through here: the one place where an error of the package becomes a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; 2 after an error that the user can mend, 130 after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except UnforgottenError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("\nStopped. Give the same command again: it goes on from where it was.", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    name="unforgotten",
    help="Fine-tune on anyone's data without forgetting safety.",
    no_args_is_help=True,
    add_completion=False,
    # A fault of ours is shown as Python shows it, without local variables, which may hold a user's data.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console entry point."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"unforgotten {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(
    room: Annotated[str | None, typer.Argument(help="methods, datasets or judges; all three if left out.")] = None,
) -> None:
    """Every method, dataset and judge, with what each one claims."""
    from rich.console import Console
    from rich.table import Table

    from unforgotten import registry
    from unforgotten.errors import UnknownName

    if room is not None and room not in registry.ROOMS:
        raise UnknownName("room", room, registry.ROOMS)
    for shown in (room,) if room else registry.ROOMS:
        table = Table(shown.removesuffix("s"), "what it does", box=None, header_style="bold", padding=(0, 2, 0, 0))
        for name in registry.names(shown):
            table.add_row(name, (registry.load(shown, name).__doc__ or "").strip().partition("\n")[0])
        Console().print(table, "")


if __name__ == "__main__":
    main()
