from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.errors import RecordingError
from mmray.recordings.electrodes import electrode_names


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("Fp1", "Fp1"), ("EEG Fp1-REF", "Fp1"), ("EEG FP1-LE", "FP1"), ("FP1.", "FP1"), ("Fc5.", "Fc5"), ("Cz..", "Cz"),
        ("EEG Fz", "Fz"), (" O2 ", "O2"), ("C3-M2", "C3"), ("C3-A2", "C3"), ("EEG T3-A1A2", "T3"), ("EEG-Pz", "Pz"),
        ("EEG E17", "E17"), ("E128", "E128"), ("EEG AFF1h-Ref", "AFF1h"), ("F3:M1+M2", "F3"), ("Fp1-0", "Fp1"),
        ("Fp1-F7", "Fp1-F7"), ("T8-P8-0", "T8-P8-0"), ("A1-A2", "A1-A2"), ("EOG left", "EOG left"),
        ("ECG-REF", "ECG-REF"),
        ("EEG", "EEG"), ("", ""), ("EEG 001", "EEG 001"), ("Status", "Status"), ("E300", "E300"), ("--0", "--0"),
    ],
)  # fmt: skip
def test_a_name_is_brought_to_the_montages_spelling_only_where_an_electrode_is_left(spelt, name):
    assert electrode_names([spelt]) == (name,)


@pytest.mark.parametrize(
    "names", [("Fp1", "EEG Fp1-REF"), ("EEG C3-A1", "EEG C3-A2"), ("Fp1", "FP1."), ("Oz-0", "Oz-1"), ("e5", "E5")]
)
def test_two_channels_of_one_electrode_are_refused_by_both_names(names):
    with pytest.raises(RecordingError) as error:
        electrode_names(names)
    assert all(repr(name) in str(error.value) for name in names)


def test_channels_that_are_no_electrode_may_stand_twice():
    assert electrode_names(["--0", "--1", "EOG", "EOG.", "T8-P8-0", "T8-P8-1"])[:2] == ("--0", "--1")


@given(
    st.permutations(["Fp1", "F7", "Cz", "O2", "AF4"]), st.sampled_from(["EEG {}-REF", "{}.", "EEG {}", "{}-LE", "{}"])
)
def test_order_is_kept_whatever_the_spelling(names, form):
    assert electrode_names([form.format(name) for name in names]) == tuple(names)
