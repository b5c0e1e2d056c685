"""The application that a Serve config file names, for `serve deploy`; see jobs/serve_config.yaml."""

# no `from __future__ import annotations`: Serve reads the parameter's class off the signature

import os
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
    """Build it. A key in the cluster's MMRAY_KEY is valid beside the workspace's; only its digest goes on from here.

    Raises:
        ConfigError: a setting or MMRAY_KEY is wrong, or there is no key at all.
        WorkspaceError: there is no whole index.
    """
    workspace = [] if args.workspace is None else [override("workspace", args.workspace)]
    config = load(args.config, [*workspace, *args.settings])
    key = os.environ.get("MMRAY_KEY")
    app.check(config, key)
    if key is None and not keys.read(Workspace(config.workspace)):
        raise ConfigError("serve: the workspace has no key; make one with `mmray keys add NAME`, or set MMRAY_KEY")
    return app.application_of(config, None if key is None else keys.digest(key))
