"""The smallest ContRec that trains, for tests of files and folders."""

from contrec.recommender.config import Config, preset

TINY = dict(
    epochs=1,
    tokenizer_epochs=2,
    embedding="linear",
    embedding_settings={"width": 8},
    tokenizer_settings={"width": 8, "tokens": 1},
    diffusion={"hidden": 16, "blocks": 1},
    backbone_settings={"hidden": 16},
)


def tiny(**changes) -> Config:
    """Return its configuration, with changes."""
    return preset("contrec-basic", **(TINY | changes))
