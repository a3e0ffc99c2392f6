"""Two processes that want the same folder at the same moment."""

import json
import time

from .campaign import check_message, require
from .crashes import Crashes, difference, state
from .forms import pick
from .processes import spawn
from .tiny import leftovers


class Races(Crashes):
    """Every trial starts two processes at once, which must not disturb each other."""

    name = "races"
    share = 1.5
    kinds = ("run", "compare", "ablate", "save", "fitted", "read", "run again")

    def attempt(self, kind, random, place):
        if kind == "read":
            return self.read_while_written(random, place)
        name = kind.split()[0]
        out = self.out_of(name, place / "here")
        line = self.line(name, out)
        first = spawn(line, out.parent, self.world, place / "first")
        wait = pick(random, [0.0, 0.0, 0.05, 0.3, 0.6])
        self.told["seconds between"] = wait
        time.sleep(wait)
        second = [*line, "--resume"] if kind == "run again" else line
        second = spawn(second, out.parent, self.world, place / "second")
        codes = [self.check(kind, running.end()) for running in (first, second)]
        self.told["codes"] = codes
        require(0 in codes, "neither came to an end")
        require(not leftovers(place), f"left behind: {leftovers(place)}")
        found = state(name, out)
        require(
            found == self.right[name],
            f"another end: {difference(found, self.right[name])}",
        )
        return "refused" if 2 in codes else "clean"

    def check(self, kind, ended):
        """Check how one of the two ended."""
        require(
            "Traceback" not in ended.err or kind in ("save", "fitted"), ended.err[-800:]
        )
        require(ended.code in (0, 2), f"exit code {ended.code}: {ended.err[-800:]}")
        if ended.code == 2:
            check_message(ended.err)
        return ended.code

    def read_while_written(self, random, place):
        """Read a model while another is saved over it: never a mixture of both."""
        out = self.out_of("save", place / "here")
        reader = spawn(["ask", out, "20"], out.parent, self.world, place / "reader")
        answers = [
            self.answers(self.folder / f"run{n}" / "model", place) for n in (0, 1)
        ]
        while reader.process.is_alive():
            said = spawn(
                self.line("save", out), out.parent, self.world, place / "said"
            ).end()
            require(said.code == 0, said.err[-600:])
        said = reader.end()
        found = [json.loads(line) for line in said.out.splitlines()]
        require(said.code == 0 or "CheckpointError" in said.err, said.err[-800:])
        require(all(a in answers for a in found), "an answer that neither model gives")
        return "clean" if said.code == 0 else "refused"

    def answers(self, model, place):
        """Return what a model answers when nobody disturbs it."""
        said = spawn(["ask", model, "1"], place, self.world, place / "asked").end()
        require(said.code == 0, said.err[-600:])
        return json.loads(said.out)
