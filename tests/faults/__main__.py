"""The long campaign: `python -m tests.faults --seed 1 --minutes 20`."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from contrec.foundations.environment import environment

from .areas import AREAS
from .campaign import Area, Result, as_rows, count


def options() -> argparse.Namespace:
    """Read the campaign's own command line."""
    names = [area.name for area in AREAS]
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=20, help="for all areas together"
    )
    parser.add_argument("--area", nargs="+", choices=names, default=names)
    parser.add_argument("--kind", help="only trials of this kind")
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="one trial of each area"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    return parser.parse_args()


def numbers(area: Area, args: argparse.Namespace):
    """Yield the numbers of the trials, without an end."""
    if args.only is not None:
        yield args.only
        return
    number = 0
    while True:
        if args.kind is None or area.kinds[number % len(area.kinds)] == args.kind:
            yield number
        number += 1


def run_area(area: Area, args: argparse.Namespace, seconds: float) -> list[Result]:
    """Run trials until the time is up; print the failures as they come."""
    end, results = time.monotonic() + seconds, []
    for number in numbers(area, args):
        result = area.trial(args.seed, number)
        results.append(result)
        if result.outcome == "failed":
            print(f"{area.name} {number} {result.told}\n    {result.why}", flush=True)
        if time.monotonic() > end:
            break
    return results


def commit() -> str:
    """Return the commit that is checked out, or nothing outside of git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def main() -> int:
    """Run the campaign and write its record; return 1 where anything failed."""
    args, began, results = options(), time.monotonic(), []
    args.out.mkdir(parents=True, exist_ok=True)
    shares = {area: area.share for area in AREAS if area.name in args.area}
    with tempfile.TemporaryDirectory() as folder:
        for area, share in shares.items():
            made = area(Path(folder) / area.name)
            seconds = 60 * args.minutes * share / sum(shares.values())
            results += run_area(made, args, seconds)
            made.close()
            print(f"{area.name}: {count(results)['areas'].get(area.name)}", flush=True)
    record = {
        "seed": args.seed,
        "commit": commit(),
        "versions": environment(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        **count(results),
        "failures": as_rows(results),
    }
    path = args.out / f"faults-seed{args.seed}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=True) + "\n")
    print(f"{record['total']}, written to {path}")
    return int(record["total"]["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
