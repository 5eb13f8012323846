"""The campaign: `make faults`. Kills of everything that writes, damage to everything that is read; seeded, resumable.

    python tests/faults/campaign.py [--inputs N] [--kills N] [--only NAME ...] [--seed S]

What was tried stays in build/faults and is not tried again; tests/faults/table.py makes the table of it.
"""

import argparse

import inputs
import kills
import table
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows of the table")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table.KEPT.mkdir(parents=True, exist_ok=True)
    kills.campaign(given.kills, given.seed, given.only)
    inputs.campaign(given.inputs, given.seed, given.only)
    table.write()


if __name__ == "__main__":
    main()
