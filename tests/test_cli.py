from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmray import cli

HEAVY = ("torch", "mne", "librosa", "ray", "scipy", "sklearn", "pyarrow", "faiss", "matplotlib", "numpy")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mmray.cli import main; code = main(['--help']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("module", ["mmray.training.sweep", "mmray.training.trainer"])
def test_a_process_that_fits_imports_nothing_that_no_fit_needs(module: str) -> None:
    """Every worker of a sweep imports these; together they take as long as torch and a small fit."""
    unneeded = ("matplotlib", "openpyxl", "scipy.signal", "scipy.stats", "torch._dynamo", "mne", "librosa", "sklearn")
    code = f"import sys, {module}; print([name for name in {unneeded!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", sorted(command.callback.__name__ for command in cli.app.registered_commands))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert verb in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["recordings", "--study", "modma", "--workspace", ""], "workspace is empty"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_name_that_looks_like_markup_is_printed_as_it_is(
    tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "md3[/q] \N{GRINNING FACE}"
    study.mkdir(parents=True)
    for name in ("data_eeg", "data_wav"):
        (study / name).mkdir()
        for participant in sorted((real_data / "feis" / name).iterdir())[:2]:
            (study / name / participant.name).symlink_to(participant)
    (study / "data_eeg" / "stray [bold].txt").touch()
    assert cli.main(["recordings", "--study", "feis", "--root", str(study), "--workspace", str(study / "ws")]) == 0
    out = capsys.readouterr().out
    assert "2 recordings of 2 subjects" in out
    assert "stray [bold].txt" in out
