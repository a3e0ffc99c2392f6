"""Generative recommendation with continuous tokens.

The public names below are imported when they are first used, so that `import contrec`
costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "ContRec": "recommender.contrec",
    "ContRecConfig": "recommender.config",
    "preset": "recommender.config",
    "Interactions": "data.interactions",
    "Split": "data.split",
    "leave_one_out": "data.split",
    "read_log": "data.reading",
    "read_items": "data.reading",
    "from_frame": "data.reading",
    "load": "data.datasets",
    "load_split": "data.datasets",
    "evaluate": "ranking.evaluation",
    "compare": "ranking.evaluation",
    "Recommender": "ranking.recommender",
    "ContrecError": "foundations.errors",
    "studio": "interface.studio",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'contrec' has no attribute '{name}'")
    return getattr(import_module(f"contrec.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
