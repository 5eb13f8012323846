"""The commands of avcil: `python -m avcil COMMAND --help` says what each reads and writes."""

import argparse
import sys

from avcil.learner import commands
from avcil.workshop.own import protocol, run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m avcil", description=__doc__)
    chosen = parser.add_subparsers(required=True, metavar="COMMAND")
    # each has `add(subparsers)`, which registers a command with `set_defaults(call=...)`, called with its arguments
    for module in (run, protocol, commands):
        module.add(chosen)
    given = parser.parse_args(arguments)
    try:
        given.call(given)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on, or begins again, without loss")


if __name__ == "__main__":
    main()
