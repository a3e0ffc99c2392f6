"""Folders of a stranger: no code runs, nothing asks, nothing is fetched."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

from .campaign import Area, require
from .forms import pick
from .tiny import command, judge, run_arguments, use_tiny_presets, write_world

CODE = (
    "from pathlib import Path\nPath({marker!r}).write_text('run')\nclass {name}: pass\n"
)


class Bomb:
    """An object whose unpickling writes the marker."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return Path.write_text, (Path(self.marker), "run")


class Hostile(Area):
    """Every trial offers one hostile folder or name."""

    name = "hostile"
    limit = 60
    share = 1.0
    kinds = (
        "tokenizer code",
        "backbone folder code",
        "backbone folder pickle",
        "backbone hub id",
        "backbone name of a model",
        "tokenizer code without a manifest",
        "pickled weights",
        "text encoder",
        "titles",
    )

    def __init__(self, folder):
        super().__init__(folder)
        use_tiny_presets()
        self.world, self.run = write_world(self.folder / "world"), self.folder / "run"
        said = command(*run_arguments(self.world, self.run))
        require(said.code == 0, said.err)

    def attempt(self, kind, random, place):
        marker = place / "marker"
        name = kind.replace(" ", "_")
        said = getattr(self, name)(place, marker, random)
        self.told["said"] = (said.err or said.out)[-300:]
        outcome = judge(said)
        require(not marker.exists(), "a stranger's code was run")
        return outcome

    def ask(self, model):
        """Ask a model for a list, with its checks switched off."""
        return command(
            "recommend",
            "--model",
            model,
            "--history",
            "i001,i002",
            "--device",
            "cpu",
            *pick(self.random, [[], ["--no-verify"]]),
        )

    def copy(self, place, random):
        """Return a copy of a sound model folder."""
        self.random = random
        return Path(shutil.copytree(self.run / "model", place / "model"))

    def tokenizer_code(self, place, marker, random):
        model = self.copy(place, random)
        write_code(model / "text", marker)
        point = {
            "auto_map": {
                "AutoTokenizer": ["evil.Evil", "evil.Evil"],
                "AutoConfig": "evil.Evil",
            },
            "tokenizer_class": pick(random, ["Evil", "evil.Evil"]),
        }
        rewrite(model, "text/tokenizer_config.json", point)
        return self.ask(model)

    def tokenizer_code_without_a_manifest(self, place, marker, random):
        model = self.copy(place, random)
        write_code(model / "text", marker)
        (model / "text" / "config.json").write_text(
            json.dumps({"auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "evil"})
        )
        (model / "manifest.json").unlink(missing_ok=True)
        return self.ask(model)

    def backbone_name_of_a_model(self, place, marker, random):
        model, folder = (
            self.copy(place, random),
            hostile_backbone(place / "lm", marker, random),
        )
        name = pick(
            random, [str(folder), "someone/model", f"{folder}:1", "https://host/model"]
        )
        rewrite(model, "config.json", {"backbone": {"name": name}})
        return self.ask(model)

    def backbone_folder_code(self, place, marker, random):
        return self.train(place, hostile_backbone(place / "lm", marker, random))

    def backbone_folder_pickle(self, place, marker, random):
        folder = hostile_backbone(place / "lm", marker, random)
        (folder / "config.json").write_text(
            json.dumps({"model_type": "llama", "vocab_size": 50})
        )
        return self.train(place, folder)

    def backbone_hub_id(self, place, marker, random):
        return self.train(
            place, pick(random, ["someone/model", "gpt2", "a/b/c", "someone/model:2"])
        )

    def train(self, place, backbone):
        """Train with a backbone, fetched in vain; a refusal leaves no folder."""
        out = place / "out"
        line = run_arguments(self.world, out, "--backbone", str(backbone))
        said = command(*line, refusal=OSError)
        left = sorted(p.name for p in out.rglob("*")) if out.exists() else []
        require(
            said.code == 0 or not out.exists(),
            f"a refused run left its folder, with {left}: {said.err}",
        )
        return said

    def pickled_weights(self, place, marker, random):
        model = self.copy(place, random)
        data = pickle.dumps({"a": Bomb(marker)})
        for name in ("pytorch_model.bin", "model.bin", "adapter_model.bin"):
            (model / name).write_bytes(data)
        if random.random() < 0.5:
            (model / "model.safetensors").write_bytes(data)
            sign(model, "model.safetensors")
        return self.ask(model)

    def text_encoder(self, place, marker, random):
        model, folder = (
            self.copy(place, random),
            hostile_backbone(place / "lm", marker, random),
        )
        rewrite(
            model,
            "config.json",
            {
                "decoding": {"text_encoder": str(folder), "text_score": "sentence"},
                "prompt": {"template": "reasoned"},
            },
        )
        return self.ask(model)

    def titles(self, place, marker, random):
        model = self.copy(place, random)
        table = json.loads((model / "catalogue.json").read_text())
        odd = pick(
            random, ["\x1b]0;owned\x07", "\x9b2J", "\u202egnp.exe", "a\nb", "\x00"]
        )
        table["items"] = [[i, odd + t, *rest] for i, t, *rest in table["items"]]
        (model / "catalogue.json").write_text(json.dumps(table))
        sign(model, "catalogue.json")
        said = self.ask(model)
        require(
            "\x1b" not in said.out and "\x9b" not in said.out,
            "an escape reaches the terminal",
        )
        return said


def write_code(folder, marker):
    """Write Python code that leaves a mark when it is run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("evil", "modeling_evil", "configuration_evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text(CODE.format(marker=str(marker), name="Evil"))


def hostile_backbone(folder, marker, random):
    """Write a language model's folder with code of its own and pickled weights."""
    write_code(folder, marker)
    config = {
        "model_type": "evil",
        "architectures": ["Evil"],
        "vocab_size": 50,
        "auto_map": {
            "AutoConfig": "evil.Evil",
            "AutoModelForCausalLM": "evil.Evil",
            "AutoModel": "evil.Evil",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
                "tokenizer_class": "Evil",
            }
        )
    )
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    return folder


def rewrite(model, name, changes):
    """Change settings in a JSON file, and sign it as a careful attacker does."""
    path = model / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    sign(model, name)


def sign(model, name):
    """Put the SHA-256 and the size of a file into the manifest."""
    path = model / "manifest.json"
    if not path.exists():
        return
    data = (model / name).read_bytes()
    fresh = hashlib.sha256(data).hexdigest()
    path.write_text(
        json.dumps(signed(json.loads(path.read_text()), name, fresh, len(data)))
    )


def signed(node, name, fresh, size):
    """Return the manifest, of any layout, with one entry renewed."""
    if not isinstance(node, dict):
        return node
    found = {k: signed(v, name, fresh, size) for k, v in node.items()}
    if name in found and isinstance(found[name], str):
        found[name] = fresh
    if name in found and isinstance(found[name], dict):
        found[name] |= {
            k: fresh if isinstance(v, str) else size for k, v in found[name].items()
        }
    return found
