"""The commands of avcil: `python -m avcil COMMAND --help` says what each reads and writes."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> None:
    try:
        _call(arguments)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on, or begins again, without loss")


def _call(arguments: list[str] | None) -> None:
    # here, for torch takes seconds, in which it may be stopped as later on
    from avcil.workshop.own import commands, protocol, run

    parser = argparse.ArgumentParser(prog="python -m avcil", description=__doc__)
    chosen = parser.add_subparsers(required=True, metavar="COMMAND")
    # each has `add(subparsers)`, which registers a command with `set_defaults(call=...)`, called with its arguments
    for module in (run, protocol, commands):
        module.add(chosen)
    given = parser.parse_args(arguments)
    given.call(given)


if __name__ == "__main__":
    main()
