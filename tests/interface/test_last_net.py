"""A command ends in a line or two and an exit code, never in a traceback."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import contrec.__main__ as start
from contrec.foundations import signals
from contrec.foundations.errors import ContrecError
from contrec.interface import cli, commands

DEAD_ENDS = ["run", "evaluate", "recommend", "compare", "ablate", "data"]


def end(capsys, arguments):
    """Exit code and lines on stderr of a command, whichever way it ends."""
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines), lines
    return code, lines


def failing(monkeypatch, error):
    def fail(args):
        raise error

    monkeypatch.setattr(commands, "data_list_command", fail)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("x"),
        RecursionError("too deep"),
        RuntimeError("CUDA error\nsecond line\nthird"),
        AssertionError(),
        ZeroDivisionError("division by zero"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ImportError("no umap"),
    ],
    ids=repr,
)
def test_any_exception_is_one_line_a_file_and_code_1(
    error, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(monkeypatch, error)
    code, lines = end(capsys, ["data", "list"])
    assert code == 1 and len(lines) == 1
    assert lines[0].startswith(
        f"contrec: unexpected {type(error).__name__}: "
    ) and lines[0].endswith("; please report it.")
    (log,) = tmp_path.iterdir()
    assert str(log) in lines[0]
    assert log.stat().st_mode & 0o777 == 0o600
    details = log.read_text()
    assert (
        "Traceback" in details
        and type(error).__name__ in details
        and "contrec 'data' 'list'" in details
    )


def test_names_of_log_files_cannot_be_guessed(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(monkeypatch, ValueError("bad"))
    for _ in range(5):
        end(capsys, ["data", "list"])
    assert len(list(tmp_path.iterdir())) == 5


def test_without_a_place_for_the_file_the_line_is_there(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    failing(monkeypatch, ValueError("bad"))
    code, lines = end(capsys, ["data", "list"])
    assert code == 1 and lines == [
        "contrec: unexpected ValueError: bad. --debug shows the details; please"
        " report it."
    ]


@pytest.mark.parametrize(
    "error", [ValueError("bad"), ContrecError("known"), KeyboardInterrupt()], ids=repr
)
def test_debug_shows_the_error_itself(error, monkeypatch):
    failing(monkeypatch, error)
    for arguments in (["data", "list", "--debug"], ["--debug", "data", "list"]):
        with pytest.raises(type(error)):
            cli.main(arguments)


@pytest.mark.parametrize(
    "error, code, words",
    [
        (MemoryError(), 1, "not enough memory"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            1,
            "not enough memory",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/run"),
            2,
            "/data/run: No space left on device",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/x"),
            2,
            "/data/x: Permission denied",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long"), 2, "File name too long"),
        (KeyboardInterrupt(), 130, "stopped."),
        (signals.Stopped(signal.SIGTERM), 143, "stopped."),
        (ContrecError("one line.\nAnd its remedy."), 2, "one line."),
    ],
    ids=repr,
)
def test_what_has_a_line_of_its_own(error, code, words, capsys, monkeypatch):
    failing(monkeypatch, error)
    found, lines = end(capsys, ["data", "list"])
    assert (
        found == code
        and 1 <= len(lines) <= 2
        and lines[0].startswith("contrec: ")
        and words in lines[0]
    )


def test_a_reader_who_has_gone_is_not_told(capsys, monkeypatch):
    failing(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert end(capsys, ["data", "list"]) == (141, [])


@pytest.mark.parametrize(
    "error", [ContrecError, ValueError, lambda text: OSError(errno.EIO, text, text)]
)
def test_messages_cannot_steer_the_terminal(error, capsys, monkeypatch):
    failing(monkeypatch, error("title \x1b[31m\x9b2J\u202e\r\n\n\n end" + "x" * 5000))
    _, lines = end(capsys, ["data", "list"])
    assert len(lines) == 1 and "\\u001b[31m" in lines[0] and len(lines[0]) < 6000
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", lines[0])


def test_an_error_that_cannot_be_printed(capsys, monkeypatch):
    class OddError(Exception):
        def __str__(self):
            raise ValueError("no text")

    failing(monkeypatch, OddError())
    code, lines = end(capsys, ["data", "list"])
    assert code == 1 and "unexpected OddError: OddError." in lines[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_command_in_a_line_and_leave_the_handlers_alone(
    number, capsys, monkeypatch
):
    def stopped(args):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(commands, "compare_command", stopped)
    defaults = {signal.SIGINT: signal.default_int_handler}
    before = defaults.get(number, signal.SIG_DFL)
    found = signal.signal(number, before)  # It is ignored in a background job
    try:
        code, lines = end(capsys, ["compare", "--datasets", "x", "--systems", "y"])
        assert code == 128 + number and lines == [
            "contrec: stopped. The same command goes on."
        ]
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, found)


# the arguments

BAD = [
    *(
        ["run", f"--core={v}"]
        for v in ("0", "-1", "x", "1.5", "1e3", "", "9" * 5000, "1000000001", "٣x")
    ),
    *(["run", f"--seed={v}"] for v in ("-1", "2147483648", "one", "0x10")),
    *(["run", f"--epochs={v}"] for v in ("0", "-3", "1e9", "10000000", "")),
    *(
        ["run", "--data", "log.csv", f"--min-rating={v}"]
        for v in ("nan", "inf", "-inf", "good", "1e999")
    ),
    *(
        ["run", f"--device={v}"]
        for v in ("warp9", "", "cuda:99", "meta", "hpu", "mps:1", "cpu:-1", "a" * 3000)
    ),
    *(
        ["run", "--data", "log.csv", f"--encoding={v}"]
        for v in ("utf-99", "", "base64", "rot13", "hex", "zlib", "undefined")
    ),
    *(
        ["run", "--data", "log.csv", f"--time-format={v}"]
        for v in ("%Q", "%", "", "year", "%Y%Y")
    ),
    *(
        ["run", option, v]
        for option in ("--out", "--data", "--items")
        for v in ("", " ", "n" * 300, "d/" * 3000)
    ),
    *(["run", f"--embedding={v}"] for v in ("", "linaer", "linear+", "linear,sasrec")),
    ["run", "--backbone", "tyni"],
    ["run", "--backbone", ""],
    ["run", "--backbone", "tiny:x"],
    ["run", "--preset", "contrek"],
    ["run", "--data", "a\0b"],
    ["run", "--data", "a\udcffb"],
    ["run", "--repeats", "second"],
    ["run", "--dataset", "ml-100"],
    ["run", "--dataset", "ml-100k", "--data", "x.csv"],
    ["run", "--title-column", "x"],
    ["run", "--data", "x.csv", "--title-column", "x"],
    *(
        ["recommend", "--model", "m", "--user", "u", f"-k={v}"]
        for v in ("0", "-5", "ten", "1" * 30)
    ),
    ["recommend", "--model", "m"],
    ["recommend", "--user", "u"],
    ["recommend", "--model", "m", "--user", "u", "--history", "i"],
    ["evaluate"],
    ["evaluate", "--model", "no/such/model"],
    ["evaluate", "--model", "m" * 300],
    ["evaluate", "--model", "m", "--part", "train"],
    *(["ablate", "grid.json", f"--workers={v}"] for v in ("0", "-1", "1025", "all")),
    ["ablate", "no/such/grid.json"],
    ["ablate"],
    ["compare", "--datasets", "--systems", "ease"],
    ["compare", "--datasets", "ml-10k", "--systems", "ease"],
    ["compare", "--datasets", "ml-100k", "--systems", "eas"],
    ["compare", "--datasets", "ml-100k", "--systems", "ease", "--like", "lastfm"],
    ["compare", "--datasets", "ml-100k", "--systems", "ease", "--seeds", "-1"],
    ["compare", "--datasets", "ml-100k", "--systems", "ease", "--workers", "0"],
    ["data", "fetch"],
    ["data", "fetch", "no such set"],
    ["data", "remove"],
    ["rnu"],
    ["--verison"],
    ["\x1b[31m"],
    ["run", "\x1b]0;title\x07"],
]


@pytest.mark.parametrize(
    "arguments", BAD, ids=lambda a: " ".join(a)[:50].encode("unicode_escape").decode()
)
def test_arguments_that_cannot_work_are_refused_in_a_line(
    arguments, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("user,item,timestamp\na,b,1\n")

    def never(*_, **__):
        raise AssertionError("something was begun")

    for name in ("run_job", "leave_one_out", "Accelerator"):
        monkeypatch.setattr(commands, name, never)
    code, lines = end(capsys, arguments)
    assert code == 2 and 1 <= len(lines) <= 2 and lines[0].startswith("contrec: "), (
        lines
    )
    assert max(map(len, lines)) < 1000 and not re.search(
        r"[\x00-\x1f\x7f-\x9f]", "".join(lines)
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv"]


PIECES = [
    "run",
    "recommend",
    "evaluate",
    "compare",
    "ablate",
    "data",
    "list",
    "fetch",
    "--dataset",
    "--data",
    "--items",
    "--core",
    "--seed",
    "--epochs",
    "--device",
    "--out",
    "--encoding",
    "--time-format",
    "--min-rating",
    "--model",
    "--user",
    "--history",
    "-k",
    "--workers",
    "--seeds",
    "--systems",
    "--datasets",
    "--grid",
    "--metric",
    "--like",
    "--tune",
    "--json",
    "--part",
    "--backbone",
    "--preset",
    "--embedding",
    "--repeats",
    "--help",
    "-h",
    "--version",
    "--",
    "-",
    "",
    "0",
    "-1",
    "1e9",
    "nan",
    "ml-10",
    "nothing.csv",
    "..",
    "/",
    "/dev/null",
    "~",
    "\x1b[2J",
    "ü",
    "\udc80",
    "a\0",
    "%s%n",
    "{}",
    "[]",
    "a" * 300,
    "9" * 400,
    "@file",
    "--=",
    "--core=",
    "-kkk",
    "cpu",
    "utf-16",
    "%d",
    "tyni",
    "linear",
    "test",
    "\n",
    "日本",
    "\u202e",
]


def test_hundreds_of_random_argument_lists(capsys, monkeypatch, tmp_path):
    """Whatever is typed: help, or one or two lines and code 2.

    Nothing is begun: the data sets' loading is cut off.
    """
    monkeypatch.chdir(tmp_path)

    def cut(*_, **__):
        raise ContrecError("cut off here.")

    for owner, name in (
        (commands.catalog, "load"),
        (commands.catalog, "fetch"),
        (commands, "run_job"),
        (commands, "run_study"),
    ):
        monkeypatch.setattr(owner, name, cut)
    draw, codes = random.Random(23), []
    for _ in range(400):
        arguments = [
            draw.choice(PIECES[:8] if n == 0 and draw.random() < 0.7 else PIECES)
            for n in range(draw.randint(0, 7))
        ]
        code, lines = end(capsys, arguments)
        codes.append(code)
        assert code in (0, 2), (arguments, code, lines)
        assert len(lines) <= 2 and (code == 0 or lines), (arguments, lines)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", "".join(lines)), (
            arguments,
            lines,
        )
    assert codes.count(2) > 200 and codes.count(0) > 10
    assert not list(tmp_path.iterdir())


def test_nothing_asked_prints_help(capsys):
    for arguments, word in (([], "COMMAND"), (["data"], "list|fetch")):
        assert cli.main(arguments) == 0
        assert word in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    slow = capsys.readouterr().out
    assert start.main(["--version"]) == 0
    assert capsys.readouterr().out == slow and re.fullmatch(
        r"contrec \d+\.\d+\.\d+\n", slow
    )


# tables


def table(titles):
    return pd.DataFrame(
        {
            "rank": range(1, len(titles) + 1),
            "item": [f"i{n}" for n in range(len(titles))],
            "title": titles,
            "categories": ["Action, " * 30] * len(titles),
            "score": np.linspace(1, 0, len(titles), dtype=np.float32),
        }
    )


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_tables_fit_the_terminal(width):
    text = commands.fit_table(
        table(
            [
                "Toy Story",
                "A very long title " * 100,
                "東京物語" * 40,
                "x\x1b[31m\n\u202ey",
            ]
        ),
        width,
    )
    lines = text.splitlines()
    assert len(lines) == 5 and all(commands._width(line) <= width for line in lines)
    assert (
        "Toy Story" in text
        and "..." in text
        and not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    )
    starts = [line.rindex(" ") for line in lines[:3]]
    assert len({commands._width(line) for line in lines}) == 1 and starts


def test_a_table_for_a_terminal_of_no_width_is_still_a_table():
    assert len(commands.fit_table(table(["Toy Story"] * 3), 1).splitlines()) == 4


# what is imported, and when

HEAVY = ["torch", "transformers", "peft", "faiss", "umap", "pandas", "numpy", "scipy"]


@pytest.mark.parametrize(
    "code",
    [
        "import contrec",
        "import contrec.__main__",
        "from contrec.interface.cli import parser; parser()",
        "from contrec.interface.cli import parser; parser().format_help()",
        "from contrec.interface.cli import parser;"
        " parser().parse_args(['compare', '--datasets', 'a', '--systems', 'b'])",
    ],
)
def test_the_parser_is_built_without_a_heavy_import(code):
    code += f"; import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "modules, absent",
    [
        (
            "contrec.interface.report, contrec.interface.result_figures",
            {"peft", "faiss", "umap", "transformers"},
        ),
        (
            "contrec.recommender.contrec",
            {"peft", "faiss", "umap", "transformers", "matplotlib"},
        ),
    ],
)
def test_libraries_are_imported_when_they_are_first_used(modules, absent):
    code = f"import sys, {modules}; print(*({absent} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "arguments", [["data", "list"], ["run", "--embedding", "linear"]], ids=" ".join
)
def test_a_library_that_is_missing_ends_in_a_line(arguments):
    code = (
        "import sys; sys.modules['torch'] = None; from contrec.interface.cli import"
        f" main; raise SystemExit(main({arguments}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("contrec: cannot start: ModuleNotFoundError: import")
    assert done.stderr.endswith(
        ". Install contrec again; --debug shows the traceback.\n"
    )
    assert len(done.stderr.splitlines()) == 1


def test_help_lists_the_names_that_options_accept(capsys):
    from contrec.data.datasets import DATASETS
    from contrec.foundations.registry import names as names_of
    from contrec.recommender.config import PRESETS
    from contrec.studies.systems import FUSED, SYSTEMS

    expected = {
        "run": [*DATASETS, *names_of("embedding"), *PRESETS],
        "compare": [*SYSTEMS, *FUSED],
    }
    for command_name, names in expected.items():
        with pytest.raises(SystemExit):
            cli.main([command_name, "--help"])
        page = re.sub(r"\s+", "", capsys.readouterr().out)
        assert all(re.sub(r"\s+", "", name) in page for name in names)
        assert "<" not in page


# the process itself


def command(*arguments, env=None, shell=None, **more):
    environment = (
        {k: v for k, v in os.environ.items() if k != "COLUMNS"}
        | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
        | (env or {})
    )
    environment = {k: v for k, v in environment.items() if v is not None}
    call = (
        [sys.executable, "-m", "contrec", *arguments]
        if shell is None
        else ["bash", "-c", shell.format(python=f"{sys.executable} -m contrec")]
    )
    return subprocess.run(
        call, capture_output=True, text=True, env=environment, timeout=240, **more
    )


@pytest.mark.parametrize(
    "shell, code",
    [
        ("{python} data list | head -n 1; exit ${{PIPESTATUS[0]}}", (0, 141)),
        ("{python} data list >&-", (0,)),
        ("{python} data list 2>&-", (0,)),
        ("{python} data list <&- >&- 2>&-", (0,)),
        ("{python} data list > /dev/full", (2,)),
        ("{python} run --core 0 2>&-", (2,)),
        ("{python} run --core 0 2> /dev/full", (2,)),
    ],
)
def test_streams_that_are_closed_or_full(shell, code):
    done = command(shell=shell)
    assert (
        done.returncode in code
        and "Traceback" not in done.stderr
        and "Exception ignored" not in done.stderr
    ), done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": None},
        {"HOME": "/no/such/home"},
        {"COLUMNS": "1"},
        {"COLUMNS": "-7"},
        {"COLUMNS": "x"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_strange_environments(env):
    done = command("data", "list", env=env)
    assert (
        done.returncode == 0
        and "ml-100k" in done.stdout
        and "Traceback" not in done.stderr
    )


def test_a_title_with_accents_on_a_terminal_without(monkeypatch):
    code = (
        "from contrec.interface import cli, commands;"
        " commands.data_list_command = lambda args: print('Am\\u00e9lie');"
        " raise SystemExit(cli.main(['data', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and done.stdout == "Am\\xe9lie\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_libraries_are_imported(number):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "contrec", "data", "list"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # the importing has begun when a first library of ours is there
    for line in process.stderr:
        if "numpy._core.multiarray" in line:
            break
    process.send_signal(number)
    said = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.wait(60) == 128 + number and said == ["contrec: stopped.\n"]


JOBS = """
import sys, time
from contrec.interface import cli, commands
from contrec.studies.runner import side_by_side
def slow(n):
    time.sleep(n)
def compare(args):
    print("begun", flush=True)
    side_by_side(slow, [(300,)] * 3, 2, "comparison")
if __name__ == "__main__":
    commands.compare_command = compare
    sys.exit(cli.main(["compare", "--datasets", "x", "--systems", "y"]))
"""


@pytest.mark.parametrize("number, wait", [(signal.SIGINT, 12), (signal.SIGTERM, 2)])
def test_a_stop_ends_the_workers_too(number, wait, tmp_path):
    """As a terminal does it.

    The signal goes to the whole group, workers that still begin included.
    """
    (tmp_path / "jobs.py").write_text(JOBS)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "jobs.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdout.readline()
    time.sleep(wait)
    (
        os.killpg(process.pid, number)
        if number == signal.SIGINT
        else process.send_signal(number)
    )
    _, said = process.communicate(timeout=60)
    assert (
        process.returncode == 128 + number
        and said == "contrec: stopped. The same command goes on.\n"
    ), said
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.2)
