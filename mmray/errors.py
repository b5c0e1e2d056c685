"""The errors a user can act on. Each says what failed, where, and what to do, and carries its exit code."""

from __future__ import annotations


class MmrayError(Exception):
    """Base of every error that reaches a user as one line, without a traceback."""

    exit_code = 1


class ConfigError(MmrayError):
    """A key is misspelt, a value is out of range, or two settings contradict each other."""

    exit_code = 2


class RecordingError(MmrayError):
    """A recording or a study on disk cannot be used. In a batch it is quarantined; under --strict it ends the run."""

    exit_code = 3


class WorkspaceError(MmrayError):
    """An artefact is missing, damaged or of another config; or the workspace cannot be written."""

    exit_code = 4


class EndpointError(MmrayError):
    """An endpoint refused, answered something else, or did not answer in time.

    Attributes:
        status: of the last answer; None where there was none.
    """

    exit_code = 6

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ResourceError(MmrayError):
    """The machine or cluster cannot hold what was asked of it."""

    exit_code = 5
