"""python -m benchmarks NAME [--quick] [--json]; --json prints one object as its last line."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

NAMES = ("prepare", "train", "search", "serve", "sweep", "faults", "scaling", "learnable", "decodable")


def main(arguments: list[str]) -> int:
    """Run one benchmark, or all; exit 1 where a figure misses its bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--quick", action="store_true", help="end within a minute; fewer rounds, smaller inputs")
    parser.add_argument("--json", action="store_true", help="print one JSON object a benchmark")
    options = parser.parse_args(arguments)
    missed = 0
    for name in NAMES if options.name == "all" else (options.name,):
        outcome = importlib.import_module(f"benchmarks.{name}").run(quick=options.quick)
        missed += sum(figure.met is False for figure in outcome.figures.values())
        if options.json:
            print(json.dumps(outcome.as_json()), flush=True)
            continue
        for label, figure in outcome.figures.items():
            print(f"{name}: {label}: {figure.as_text()}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
