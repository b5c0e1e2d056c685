"""Node features from a pretrained encoder: `features.<modality>.encoder` names a callable in place of the families.

The name comes from the config alone, so nothing that a client uploads is ever imported. docs/encoders.md says how to
write one.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmray.config import EEG, Audio
from mmray.errors import ConfigError, RecordingError

Array = NDArray[np.float32]
Encode = Callable[[Array, float], Any]

_constructing = threading.Lock()  # an endpoint answers from several threads


def names(config: EEG | Audio) -> tuple[str, ...]:
    """What each feature of a node is called: the callable's name and a number.

    Raises:
        ConfigError: as `encode`, but for what the encoder returns.
    """
    found = _declared(*_named(config))
    stem = str(config.encoder).rpartition(":")[2].rpartition(".")[2]
    return tuple(f"{stem}_{number:03d}" for number in range(found.width))


def encode(config: EEG | Audio, signal: Array, sampling_rate_hz: float, nodes: int) -> Array:
    """The encoder's node features, S x n x d float32.

    Args:
        signal: segments, S x N x T of an EEG (microvolts) or S x T of a voice (unit loudness); it is read-only there.
        nodes: n, the electrodes of an EEG or features.audio.nodes.

    Raises:
        ConfigError: the encoder cannot be imported or constructed, declares no version or width or another version than
            the config, or returns something else than S x n x d floating-point numbers.
        RecordingError: it raised an exception, or returned a number that is not finite.
    """
    name, version, field = _named(config)
    encoder = _constructed(name, version, field)
    given = signal.view()
    given.flags.writeable = False  # the edges may be drawn from the same array
    try:
        returned = encoder(given, sampling_rate_hz)
    except Exception as error:
        raise RecordingError(
            f"{field}: {name} (version {version}) failed on {' x '.join(map(str, signal.shape))} samples at "
            f"{sampling_rate_hz:g} Hz: {type(error).__name__}: {error}"
        ) from error
    expected = (len(signal), nodes, _declared(name, version, field).width)
    is_array = isinstance(returned, np.ndarray) and np.issubdtype(returned.dtype, np.floating)
    if not is_array or returned.shape != expected:
        got = f"{returned.dtype} of shape {returned.shape}" if isinstance(returned, np.ndarray) else type(returned)
        raise ConfigError(
            f"{field}: {name} returned {got}; it must return a NumPy float32 array of shape {expected}: segments x "
            "nodes x its declared width"
        )
    if not np.isfinite(returned).all():
        raise RecordingError(f"{field}: {name} (version {version}) returned numbers that are not finite")
    x_SND: Array = returned.astype(np.float32, copy=False)
    return x_SND


class _Declared(NamedTuple):
    target: Any
    width: int


def _named(config: EEG | Audio) -> tuple[str, str, str]:
    field = f"features.{'eeg' if isinstance(config, EEG) else 'audio'}.encoder"
    return str(config.encoder), str(config.encoder_version), field


@cache
def _declared(name: str, version: str, field: str) -> _Declared:
    module, _, path = name.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for part in path.split("."):
            target = getattr(target, part)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"{field}: cannot import {name}: {type(error).__name__}: {error}; its package must be installed, or on "
            "PYTHONPATH, on every node"
        ) from error
    declared, width = getattr(target, "version", None), getattr(target, "width", None)
    if not callable(target):
        raise ConfigError(f"{field}: {name} is a {type(target).__name__}, not a callable or a class of callables")
    if not isinstance(declared, str) or not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ConfigError(
            f"{field}: {name} must declare `version`, a string, and `width`, its features a node, as attributes of the "
            f"{'class' if isinstance(target, type) else 'callable'}; it has {declared!r} and {width!r}"
        )
    if declared != version:
        raise ConfigError(
            f"{field}: {name} is version {declared!r} here, and {field}_version says {version!r}; features of two "
            "versions must not mix: set the one or install the other"
        )
    return _Declared(target, width)


def _constructed(name: str, version: str, field: str) -> Encode:
    with _constructing:
        return _construct(name, version, field)


@cache
def _construct(name: str, version: str, field: str) -> Encode:
    target: Encode = _declared(name, version, field).target
    if not isinstance(target, type):
        return target
    try:
        encoder: Encode = target()
    except Exception as error:
        raise ConfigError(f"{field}: {name}() cannot be constructed: {type(error).__name__}: {error}") from error
    if not callable(encoder):
        raise ConfigError(f"{field}: {name}() cannot be called; give the class a __call__(signal, sampling_rate_hz)")
    return encoder
