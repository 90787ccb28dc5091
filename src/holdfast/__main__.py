"""`python -m holdfast`: the command line, where no script is installed."""

from holdfast.console import main

if __name__ == "__main__":
    raise SystemExit(main())
