"""The smallest ContRec that trains, for tests of files and folders."""

from contrec.recommender.config import ContRecConfig, preset

TINY = dict(
    training={"epochs": 1, "tokenizer_epochs": 2},
    embedding={"kind": "linear", "width": 8},
    tokenizer={"width": 8, "tokens": 1},
    diffusion={"hidden": 16, "blocks": 1},
    backbone={"hidden": 16},
)


def tiny(**changes) -> ContRecConfig:
    """Return its configuration, with changes."""
    return preset("contrec-basic", **TINY).replace(**changes)
