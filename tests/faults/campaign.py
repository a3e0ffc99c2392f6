"""How one fault is tried, judged and written down."""

import re
import shutil
import signal
import time
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

OUTCOMES = ("clean", "refused", "failed")
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


class Fault(AssertionError):  # noqa: N818 - a fault of the library, found
    """Something that the kit must never do."""


class Hang(BaseException):
    """A trial that took too long; no handler for errors may catch it."""


@dataclass
class Result:
    """What came of one trial."""

    area: str
    seed: int
    number: int
    outcome: str  # One of OUTCOMES
    told: dict = field(default_factory=dict)  # The input, in words and values
    why: str = ""  # What went wrong, where something did


class Area:
    """A family of faults. A subclass sets `name` and `kinds`, and defines `attempt`.

    Trial `number` of a seed is always the same trial, whatever ran before it.
    """

    name = ""
    kinds: tuple[str, ...] = ()  # Every kind is tried once before any is tried again
    limit = 60  # Seconds after which a trial counts as hanging
    share = 1.0  # Of the time of a campaign, beside the other areas

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.told: dict = {}

    def attempt(self, kind: str, random: np.random.Generator, place: Path) -> str:
        """Try one fault in the empty folder `place`: `clean` or `refused`."""
        raise NotImplementedError

    def trial(self, seed: int, number: int) -> Result:
        """Run one trial; whatever it raises is a failure."""
        random = np.random.default_rng([seed, number, *self.name.encode()])
        kind = self.kinds[number % len(self.kinds)]
        place = self.folder / "trial"
        remove(place)
        place.mkdir()
        self.told = {"kind": kind}
        try:
            with time_limit(self.limit):
                outcome, why = self.attempt(kind, random, place), ""
        except (Exception, Hang, SystemExit) as error:
            outcome, why = "failed", reason(error)
        return Result(self.name, seed, number, outcome, dict(self.told), why)

    def close(self) -> None:
        """Remove everything that the area wrote."""
        remove(self.folder)


def reason(error: BaseException) -> str:
    """Return what was found, or the end of the traceback."""
    if isinstance(error, Fault | Hang):
        return str(error)
    return "".join(traceback.format_exception(error)[-3:])


def remove(path: Path) -> None:
    """Delete a file or a folder, whatever its permissions are."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for inner in path.rglob("*"):
        if inner.is_dir() and not inner.is_symlink():
            inner.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def time_limit(seconds: float):
    """Raise `Hang` in this thread where the block takes longer."""

    def stop(*_):
        raise Hang(f"no end after {seconds} s")

    before, began = signal.signal(signal.SIGALRM, stop), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
        if time.monotonic() - began > seconds:
            stop()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def require(condition: object, what: str) -> None:
    """Raise `Fault` unless the condition holds."""
    if not condition:
        raise Fault(what)


def check_message(text: str) -> None:
    """Check that a refusal is one or two lines that are safe to print."""
    lines = text.strip().splitlines()
    require(text.strip(), "refused without a word")
    require(len(lines) <= 2, f"a refusal of {len(lines)} lines: {text[:600]!r}")
    require("Traceback" not in text, f"a traceback: {text[-600:]!r}")
    require(
        not CONTROL.search(text), f"control characters reach the reader: {text[:300]!r}"
    )
    require(len(text) < 2000, f"a refusal of {len(text):,} characters: {text[:300]!r}")


def count(results: list[Result]) -> dict:
    """Count the outcomes by area, and in all."""
    areas = list(dict.fromkeys(r.area for r in results))
    table = {}
    for area in areas:
        mine = [r for r in results if r.area == area]
        table[area] = {"tried": len(mine)}
        table[area] |= {o: sum(r.outcome == o for r in mine) for o in OUTCOMES}
    total = {o: sum(row[o] for row in table.values()) for o in ("tried", *OUTCOMES)}
    return {"areas": table, "total": total}


def as_rows(results: list[Result]) -> list[dict]:
    """Return the failures as they stand in the record."""
    return [asdict(r) for r in results if r.outcome == "failed"]
