"""The folder of a study that mmray makes: whose settings made it, and whether it is whole."""

from __future__ import annotations

from mmray.errors import WorkspaceError
from mmray.storage import Workspace

SETTINGS = "synthesis.json"


def claim(place: Workspace, settings: dict[str, object], last: str) -> bool:
    """Mark the folder as this study's; True where it is whole already.

    Args:
        place: new, empty, or holding a study of the same settings, whole or half-written.
        settings: that decide every byte.
        last: the file that is written when all others are.

    Raises:
        WorkspaceError: the folder holds something else, or cannot be written.
    """
    if place.exists(SETTINGS):
        there = place.read_json(SETTINGS)
        if there != settings:
            names = [name for name in settings if there.get(name) != settings[name]]
            raise WorkspaceError(
                f"synth: {place.root} holds a synthetic study of other settings ({', '.join(names) or 'unknown ones'} "
                "differ); choose another folder or delete that one"
            )
        return place.exists(last)
    if place.names():
        raise WorkspaceError(
            f"synth: {place.root} is not empty and holds no synthetic study ({SETTINGS} is not there); "
            "choose a new folder, so that no recording is overwritten"
        )
    place.write_json(settings, SETTINGS)
    return False
