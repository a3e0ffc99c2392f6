"""Names lead to parts, in this process and in others, and strangers' code stays out."""

import inspect
import subprocess
import sys

import pytest

from contrec.data.datasets import DATASETS
from contrec.foundations.errors import ConfigError
from contrec.foundations.registry import (
    KINDS,
    canonical,
    check_trusted,
    lookup,
    names,
    register,
    spec,
)
from contrec.studies.systems import SYSTEMS
from contrec.tokenizer import quantizers, sigma_vae

MODULE = """
from pathlib import Path

from contrec.foundations.registry import register
from contrec.tokenizer.sigma_vae import SigmaVAE

Path(__file__).with_name("imported").touch()


@register("tokenizer", "stranger-vae")
class StrangerVAE(SigmaVAE):
    pass


def loss(z):
    return z.sum()
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The folder of a package that nobody has imported yet."""
    package = tmp_path / "strangerpackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.startswith("strangerpackage")]:
        del sys.modules[name]


def in_process(folder, code):
    """Run a line of Python that finds the stranger's package."""
    line = f"import sys; sys.path.insert(0, {str(folder.parent)!r}); {code}"
    return subprocess.run([sys.executable, "-c", line], capture_output=True, text=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_of_the_kit_leads_to_a_part(kind):
    for name in names(kind):
        found = lookup(kind, name)
        same = spec(kind, found)
        assert lookup(kind, same) is found
        if kind not in ("backbone", "dataset", "recommender"):
            assert same == name


def test_tables_of_the_registry_are_complete():
    assert names("dataset") == list(DATASETS)
    assert names("recommender") == list(SYSTEMS)
    tokenizers = {
        name
        for module in (sigma_vae, quantizers)
        for name, found in vars(module).items()
        if inspect.isclass(found)
        and issubclass(found, sigma_vae.Tokenizer)
        and found not in (sigma_vae.Tokenizer, quantizers.Quantizer)
    }
    assert tokenizers == set(names("tokenizer"))
    assert set(names("quantizer")) < tokenizers


def test_names_import_nothing():
    code = (
        "import sys; from contrec.foundations import registry;"
        "[registry.names(kind) for kind in registry.KINDS];"
        "found = {'transformers', 'faiss', 'peft'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_path_is_imported_when_it_is_looked_up(stranger):
    marker = stranger / "imported"
    with pytest.raises(ConfigError, match="not run unasked"):
        check_trusted("tokenizer", "strangerpackage.module:StrangerVAE", "model")
    assert not marker.exists()
    found = lookup("tokenizer", "strangerpackage.module:StrangerVAE")
    assert marker.exists() and issubclass(found, sigma_vae.SigmaVAE)
    # It is approved now, by its path and by its registered name, as this kind only
    check_trusted("tokenizer", "strangerpackage.module:StrangerVAE", "model")
    assert lookup("tokenizer", "stranger-vae") is found
    assert (
        canonical("tokenizer", "stranger-vae") == "strangerpackage.module:StrangerVAE"
    )
    with pytest.raises(ConfigError, match="not run unasked"):
        check_trusted("ranking_loss", "strangerpackage.module:StrangerVAE", "model")


def test_an_imported_module_is_not_approved():
    with pytest.raises(ConfigError, match="--trust-code"):
        check_trusted("embedding", "subprocess:run", "model")
    check_trusted("embedding", "subprocess:run", "model", trust_code=True)
    # A path into the kit is as good as the name that it stands for, and no better
    check_trusted("embedding", "contrec.tokenizer.embeddings:linear", "model")
    with pytest.raises(ConfigError, match="not run unasked"):
        check_trusted("embedding", "contrec.foundations.files:write_json", "model")


def test_another_process_finds_what_spec_names(stranger):
    found = lookup("tokenizer", "strangerpackage.module:StrangerVAE")
    code = (
        "from contrec.foundations.registry import lookup;"
        f"print(lookup('tokenizer', {spec('tokenizer', found)!r}).__name__)"
    )
    done = in_process(stranger, code)
    assert done.stdout.strip() == "StrangerVAE", done.stderr


@pytest.mark.parametrize(
    "kind, name, line",
    [
        ("tokenizer", "SigmaVEA", "Did you mean 'SigmaVAE'?"),
        ("tokenizer", "strangerpackage.nothing:A", "cannot be imported"),
        ("tokenizer", "strangerpackage.module:Stranger", "Did you mean 'StrangerVAE'?"),
        ("tokenizer", "strangerpackage.module:loss", "no subclass of"),
        ("backbone", "strangerpackage.module:StrangerVAE", "no subclass of"),
        ("tokenizer", None, "unknown tokenizer None"),
        ("tokenizer", ["SigmaVAE"], "unknown tokenizer"),
        ("tokenizers", "SigmaVAE", "Did you mean 'tokenizer'?"),
    ],
)
def test_wrong_names_get_one_line(stranger, kind, name, line):
    with pytest.raises(ConfigError) as error:
        lookup(kind, name)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_module_that_fails_is_reported_with_its_error(stranger):
    (stranger / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError: 'division by zero'"):
        lookup("tokenizer", "strangerpackage.broken:Tokenizer")


def test_a_name_belongs_to_one_part(stranger):
    lookup("tokenizer", "strangerpackage.module:StrangerVAE")
    with pytest.raises(ConfigError, match="'stranger-vae' is taken"):
        register("tokenizer", "stranger-vae")(sigma_vae.VAE)
    with pytest.raises(ConfigError, match="'linear' is taken"):
        register("embedding", "linear")(sigma_vae.VAE)
    with pytest.raises(ConfigError, match="no name for a tokenizer"):
        register("tokenizer", "two words")(sigma_vae.VAE)


def test_a_quantizer_is_a_tokenizer(monkeypatch):
    name = f"quantizer-{id(monkeypatch)}"

    class Mine(quantizers.VectorQuantizer):
        pass

    register("quantizer", name)(Mine)
    assert lookup("tokenizer", name) is Mine
    assert spec("tokenizer", Mine) == name  # A class inside a function has no path
