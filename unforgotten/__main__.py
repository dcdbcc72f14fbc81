"""`python -m unforgotten`, and the console's `unforgotten`, are the command line."""

from __future__ import annotations

from unforgotten.runs import terminate


def main() -> None:
    """Hears SIGTERM before anything else is loaded, which takes a second."""
    terminate.from_the_start()
    from unforgotten.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
