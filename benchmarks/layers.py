"""Times every layer of shapes.py, per symmetry, memory format and pass, beside the dense layers it replaces.

python benchmarks/layers.py --only 'resnet18 8x' --csv layers.csv --plots out
python benchmarks/layers.py --bars --only 'all hv' --seconds 0.5
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import bars
import options
import tables


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = options.parser(
        __doc__.splitlines()[0], seconds=0.5, what="case (a layer, a symmetry and a pass)"
    )
    parser.add_argument("--bars", action="store_true", help="print the table of bars instead")
    arguments = parser.parse_args(argv)
    options.apply(arguments)
    return print_bars(arguments)


def print_bars(arguments: argparse.Namespace) -> int:
    setting = bars.Setting(options.DTYPES[arguments.dtype], arguments.device)
    selected = [case for case in bars.cases(setting) if options.wanted(arguments, case.full_name)]
    rows = bars.shown(bars.run_bars(selected, arguments.seconds))
    print(tables.markdown(bars.HEADER, rows, left=2))
    if arguments.csv:
        tables.write_csv(arguments.csv, bars.HEADER, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
