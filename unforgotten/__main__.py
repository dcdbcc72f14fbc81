"""`python -m unforgotten` is the command line."""

from unforgotten.cli import main

if __name__ == "__main__":
    main()
