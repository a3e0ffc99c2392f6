"""Command lines with any option, any value and any number of them."""

import shlex
import shutil

from .campaign import Area, require
from .forms import pick
from .tiny import command, judge, run_arguments, use_tiny_presets, write_world

NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "1000000",
    "99999999999999999999",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "",
    "x",
    "١",
    "0x10",
    "1_0",
    " 3",
    "2.5",
    "-0",
)
WORDS = (
    "",
    " ",
    "x",
    "user",
    "item",
    "timestamp",
    "\x1b[31m",
    "a\x00b",
    "\u202e",
    "ü",
    "--out",
    "x" * 5000,
    "../..",
    "/",
    "None",
    "%",
    "{0}",
    "a,b",
    "\n",
    "'",
    "\udcff",
)
PATHS = (
    "{world}/log.csv",
    "{world}/items.csv",
    "{world}",
    "{world}/none.csv",
    "",
    "/",
    "/dev/null",
    "/proc/self/mem",
    "x" * 300,
    "{place}/" + "a/" * 1500,
    "a\x00b",
    "~",
    "{run}",
    "{run}/model",
    "\x1b[31m.csv",
    "{place}/new",
    "-",
    "{world}/log.csv/x",
    "/proc/nothing/here",
)
DEVICES = (
    "cpu",
    "cuda",
    "cuda:9",
    "cuda:-1",
    "meta",
    "mps",
    "xla",
    "cpu:1",
    "",
    "gpu",
    "\x1b[31m",
)

OPTIONS = {
    "run": {
        "--data": PATHS,
        "--items": PATHS,
        "--out": PATHS,
        "--core": NUMBERS,
        "--seed": NUMBERS,
        "--epochs": NUMBERS,
        "--min-rating": NUMBERS,
        "--device": DEVICES,
        "--resume": None,
        "--user-column": WORDS,
        "--item-column": WORDS,
        "--timestamp-column": WORDS,
        "--rating-column": WORDS,
        "--title-column": WORDS,
        "--category-column": WORDS,
        "--text-column": WORDS,
        "--category-separator": WORDS,
        "--encoding": WORDS,
        "--time-format": WORDS,
        "--repeats": ("keep", "first", *WORDS),
        "--preset": ("contrec", *WORDS),
        "--dataset": (*WORDS, "ml-100"),
        "--ties": ("random", "file", *WORDS),
        "--backbone": (
            "tiny",
            "tyni",
            "tiny:2",
            "tiny:0",
            "tiny:-1",
            "tiny:x",
            "smollm2-135m:999",
            "someone/model",
            *PATHS,
        ),
    },
    "recommend": {
        "--model": PATHS,
        "--user": ("u001", *WORDS),
        "--history": ("i001,i002", *WORDS),
        "-k": NUMBERS,
        "--json": None,
        "--device": DEVICES,
        "--no-verify": None,
    },
    "evaluate": {
        "--model": PATHS,
        "--part": ("test", "valid", *WORDS),
        "--device": DEVICES,
    },
    "ablate": {
        "--grid": PATHS,
        "--out": PATHS,
        "--workers": NUMBERS,
        "--metric": WORDS,
    },
    "compare": {
        "--datasets": (*WORDS, "ml-100"),
        "--systems": ("popularity", "ease", *WORDS),
        "--seeds": NUMBERS,
        "--tune": None,
        "--like": WORDS,
        "--out": PATHS,
        "--workers": NUMBERS,
        "--device": DEVICES,
        "--shuffle-ties": None,
    },
    "data check": {
        "--data": PATHS,
        "--items": PATHS,
        "--user-column": WORDS,
        "--encoding": WORDS,
        "--core": NUMBERS,
        "--time-format": WORDS,
        "--json": None,
    },
    "data fetch": {"": WORDS},
    "data list": {},
    "data": {},
    "nothing": {},
    "version": {},
    "x": {},
}
SOUND = {
    "run": ("--data", "{world}/log.csv", "--out", "{place}/out", "--epochs", "1"),
    "recommend": ("--model", "{run}", "--user", "u001"),
    "evaluate": ("--model", "{run}"),
    "ablate": ("--grid", "{world}/none.json"),
    "data check": ("--data", "{world}/log.csv"),
    "compare": ("--datasets", "none", "--systems", "popularity"),
}
FIXED = {"nothing": [], "version": ["--version"]}


class Commands(Area):
    """Every trial types one command line."""

    name = "commands"
    share = 1.5
    kinds = tuple(OPTIONS) + ("run", "recommend")

    def __init__(self, folder):
        super().__init__(folder)
        use_tiny_presets()
        self.world, self.run = write_world(self.folder / "world"), self.folder / "run"
        said = command(*run_arguments(self.world, self.run))
        require(said.code == 0, said.err)

    def attempt(self, kind, random, place):
        line = FIXED.get(kind) or self.typed(kind, random)
        places = {"world": self.world, "run": self.run, "place": place}
        for name, path in places.items():
            line = [word.replace("{" + name + "}", str(path)) for word in line]
        self.told["line"] = shlex.join(["contrec", *line])[:500]
        twin = place / "run before"
        shutil.copytree(self.run, twin)
        outcome = judge(command(*line))
        require(files(twin) == files(self.run), "a finished run was altered")
        require(kind != "version" or outcome == "clean", "--version is refused")
        if outcome == "refused" and kind == "run" and (place / "out").exists():
            require(
                (place / "out" / "config.json").exists(),
                "a folder was left that is no run",
            )
        return outcome

    def typed(self, kind, random):
        """Make a command line: sound options first, then some at random."""
        known = OPTIONS[kind]
        line = list(SOUND.get(kind, ())) if random.random() < 0.8 else []
        for option in random.permutation(list(known))[: int(random.integers(0, 3))]:
            values = known[str(option)]
            line += [str(option)] * bool(option)
            if values is not None and random.random() < 0.95:
                line.append(pick(random, values))
        if random.random() < 0.05:
            line.append(pick(random, WORDS))
        return [*([] if kind == "nothing" else kind.split()), *line]


def files(folder):
    """Return the size of every file of a folder."""
    return {
        str(p.relative_to(folder)): p.stat().st_size
        for p in folder.rglob("*")
        if p.is_file()
    }
