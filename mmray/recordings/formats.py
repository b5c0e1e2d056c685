"""Which files hold a recording, by suffix, and which files lie beside them."""

from __future__ import annotations

from pathlib import PurePath

EEG_SUFFIXES = (".edf", ".bdf", ".set", ".vhdr", ".fif")  # what BIDS allows for EEG, and FIF
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# a header's samples and markers lie in files of the same stem
COMPANIONS = {".set": (".fdt",), ".vhdr": (".eeg", ".dat", ".vmrk")}


def reader_of(modality: str, path: str) -> str:
    """The key of signals.READERS that usually reads a file of this name."""
    if modality == "audio":
        return "soundfile"
    return "modma-mat" if PurePath(path).suffix.lower() == ".mat" else "mne"
