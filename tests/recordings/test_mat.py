from __future__ import annotations

import struct
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
import scipy.io

from mmray.errors import RecordingError
from mmray.recordings import matlab
from mmray.recordings.mat5 import matrices
from mmray.recordings.matlab import read_mat
from tests.recordings.modma_tree import eeg_129, write_v5, write_v73


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("rows", [128, 129])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", ">f8"])
def test_a_v5_array_is_what_was_saved_without_cz(tmp_path, compress, rows, dtype):
    saved = eeg_129()[:rows].astype(dtype)
    data_CT, rate = read_mat(write_v5(tmp_path / "a.mat", saved, compress=compress), 1e-6)
    np.testing.assert_allclose(data_CT, saved[:128] * 1e-6, rtol=1e-12)
    assert rate == 250


def test_a_v73_array_written_as_matlab_does_comes_out_upright(tmp_path):
    data_CT, rate = read_mat(write_v73(tmp_path / "a.mat"), 1.0)
    np.testing.assert_array_equal(data_CT, eeg_129()[:128])
    assert rate == 250


def test_a_v73_array_written_rows_first_comes_out_upright_too(tmp_path):
    data_CT, _ = read_mat(write_v73(tmp_path / "a.mat", eeg_129().T), 1.0)
    np.testing.assert_array_equal(data_CT, eeg_129()[:128])


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_the_files_own_rate_is_returned(tmp_path, write):
    extra = {"samplingRate": 500.0} if write is write_v5 else {"rate": 500.0}
    assert read_mat(write(tmp_path / "a.mat", **extra), 1.0)[1] == 500


def test_every_numeric_array_equals_what_scipy_reads(tmp_path):
    saved = {
        "a": np.arange(12.0).reshape(3, 4),
        "longer_name_of_an_array": np.arange(6, dtype="u1").reshape(2, 3),
        "cube": np.arange(24, dtype="i4").reshape(2, 3, 4),
        "empty": np.zeros((0, 3)),
        "text": "skipped",
        "struct": {"skipped": 1},
        "complex": np.array([1j]),
    }
    scipy.io.savemat(tmp_path / "a.mat", saved)
    oracle = scipy.io.loadmat(tmp_path / "a.mat")
    found = matrices(tmp_path / "a.mat")
    assert sorted(found) == ["a", "cube", "empty", "longer_name_of_an_array"]
    for name, array in found.items():
        np.testing.assert_array_equal(array.values(), oracle[name])


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_too_few_channels_are_refused_and_the_arrays_listed(tmp_path, write):
    with pytest.raises(RecordingError, match=r"no array of 128 or 129 channels.*64"):
        read_mat(write(tmp_path / "a.mat", eeg_129()[:64]), 1.0)


def test_two_candidates_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="several arrays"):
        read_mat(write_v5(tmp_path / "a.mat", second=eeg_129(1)), 1.0)


@pytest.mark.parametrize("rate", [0.0, -250.0, np.nan, np.inf, [[250.0, 250.0]]])
def test_a_rate_that_is_no_rate_is_refused(tmp_path, rate):
    with pytest.raises(RecordingError, match="samplingRate is not one positive number"):
        read_mat(write_v5(tmp_path / "a.mat", samplingRate=rate), 1.0)


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_a_missing_rate_is_refused(tmp_path, write):
    extra = {"samplingRate": None} if write is write_v5 else {"rate": None}
    with pytest.raises(RecordingError, match="has no samplingRate"):
        read_mat(write(tmp_path / "a.mat", **extra), 1.0)


def write_v5_compressed(path):
    return write_v5(path, compress=True)


@pytest.mark.parametrize("write", [write_v5, write_v5_compressed, write_v73])
def test_every_truncation_is_refused_by_name(tmp_path, write):
    whole = write(tmp_path / "whole.mat").read_bytes()
    path = tmp_path / "cut.mat"
    # a few cuts fall between elements: then what is missing is the rate
    for kept in [*range(0, 700, 37), *range(700, len(whole) - 9, len(whole) // 25), len(whole) - 9, len(whole) - 1]:
        path.write_bytes(whole[:kept])
        with pytest.raises(RecordingError, match=r"cut\.mat"):
            read_mat(path, 1.0)


@pytest.mark.parametrize("write", [write_v5, write_v5_compressed, write_v73])
def test_overwritten_headers_never_raise_another_error(tmp_path, write):
    # scipy.io.loadmat ends the process on some of these
    whole = write(tmp_path / "whole.mat").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.mat"
    refused = 0
    for _ in range(150):
        start, length = int(rng.integers(0, 1200)), int(rng.choice([1, 4, 64]))
        path.write_bytes(whole[:start] + rng.bytes(length) + whole[start + length :])
        try:
            read_mat(path, 1.0)
        except RecordingError:
            refused += 1
    assert refused > 5


def repacked(path, change):
    """The file at `path`, its first compressed array unpacked, changed and packed again."""
    content = path.read_bytes()
    size = struct.unpack_from("<I", content, 132)[0]
    packed = zlib.compress(change(zlib.decompress(content[136 : 136 + size])))
    path.write_bytes(content[:128] + struct.pack("<II", 15, len(packed)) + packed + content[136 + size :])
    return path


def test_a_compressed_array_packed_again_is_read(tmp_path):
    path = repacked(write_v5_compressed(tmp_path / "a.mat"), lambda array: array)
    np.testing.assert_array_equal(read_mat(path, 1.0)[0], eeg_129()[:128])


@pytest.mark.parametrize("change", [lambda array: array + bytes(640), lambda array: array[:-640]])
def test_a_compressed_array_of_another_length_than_it_says_is_refused(tmp_path, change):
    with pytest.raises(RecordingError, match=r"a\.mat"):
        read_mat(repacked(write_v5_compressed(tmp_path / "a.mat"), change), 1.0)


def test_an_empty_v73_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w"):
        pass
    with pytest.raises(RecordingError, match="nothing numeric"):
        read_mat(tmp_path / "a.mat", 1.0)


@pytest.mark.parametrize("write", [write_v5, write_v5_compressed, write_v73])
@pytest.mark.parametrize("limit", ["MOST_SAMPLES", "_MOST_BYTES"])
def test_what_is_too_large_to_be_read_whole_is_to_be_exported(tmp_path, monkeypatch, write, limit):
    path = write(tmp_path / "a.mat")
    monkeypatch.setattr(matlab, limit, 1000)
    with pytest.raises(RecordingError, match=r"a\.mat: claims .*cannot be read in parts; export .* as EDF or FIF"):
        read_mat(path, 1.0)


def test_reading_v5_holds_the_file_and_one_copy(tmp_path):
    path = write_v5(tmp_path / "a.mat", np.zeros((129, 40_000)))
    tracemalloc.start()
    try:
        data_CT, _ = read_mat(path, 1e-6)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * (path.stat().st_size + data_CT.nbytes)
