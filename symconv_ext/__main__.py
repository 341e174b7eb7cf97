"""The command line, ``python -m symconv_ext COMMAND``: every command is a module with a ``main(argv)``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys

COMMANDS = {
    "info": "versions, devices, and which backend runs where and why",
    "verify": "check every operator on this machine's devices against float64",
    "bench": "a one-minute benchmark against torch.nn",
    "demo": "train a small network on handwritten digits, with and without symmetry",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    commands = {
        name: text for name, text in COMMANDS.items() if importlib.util.find_spec(f"{__package__}.{name}")
    }
    parser = argparse.ArgumentParser(
        prog="python -m symconv_ext",
        description="Convolutions with mirror-symmetric filters.",
        epilog="\n".join(f"{name:<8}{text}" for name, text in commands.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=commands, help="what to do")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see COMMAND --help")
    arguments = parser.parse_args(argv)
    module = importlib.import_module(f"{__package__}.{arguments.command}")
    return int(module.main(arguments.arguments))


if __name__ == "__main__":
    sys.exit(main())
