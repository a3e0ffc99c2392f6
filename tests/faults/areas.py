"""The areas of the campaign, in the order in which they are run."""

from .checkpoints import Checkpoints
from .commands import Commands
from .crashes import Crashes
from .edges import Edges
from .hostile import Hostile
from .items import Items
from .jsons import Jsons
from .logs import Logs
from .models import Models
from .races import Races

AREAS = (
    Logs,
    Items,
    Commands,
    Jsons,
    Edges,
    Models,
    Hostile,
    Crashes,
    Checkpoints,
    Races,
)
