"""The application that a Serve config file names, for `serve deploy`; see jobs/serve_config.yaml."""

# no `from __future__ import annotations`: Serve reads the parameter's class off the signature

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mmray.config import load, override
from mmray.errors import ConfigError
from mmray.serving import app, keys
from mmray.storage import Workspace


class Arguments(BaseModel):
    """What the file's `args` may say; a misspelt key is refused.

    Attributes:
        config: the experiment's YAML, on the cluster's nodes.
        workspace: its folder or URI, which every node reaches.
        settings: overrides, as `--set` takes them.
    """

    model_config = ConfigDict(extra="forbid")

    config: Path | None = None
    workspace: str | None = None
    settings: list[str] = []


def application(args: Arguments) -> Any:
    """Build it.

    Raises:
        ConfigError: a setting is wrong, or the workspace has no key.
        WorkspaceError: there is no whole index.
    """
    workspace = [] if args.workspace is None else [override("workspace", args.workspace)]
    config = load(args.config, [*workspace, *args.settings])
    app.check(config)
    if not keys.read(Workspace(config.workspace)):
        raise ConfigError("serve: the workspace has no key; make one with `mmray keys add NAME`")
    return app.application_of(config, None)
