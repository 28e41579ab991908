import os
import warnings
import zipfile

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.signs_file import SignsArrays, read_signs
from tests.fake_data.signs import sign_arrays, write_signs

ARRAYS = sign_arrays()  # X (24, 12, 6), 3 classes


def changed(key, place, value, dtype=None):
    array = ARRAYS[key].astype(dtype or ARRAYS[key].dtype)
    array[place] = value
    return {key: array}


class Payload:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def test_a_good_file_is_read_without_padding(tmp_path):
    data = read_signs(write_signs(tmp_path / "good.npz"))
    lengths = ARRAYS["mask"].sum(1)
    assert isinstance(data, SignsArrays)
    assert len(data) == 24 and data.frames.shape == (lengths.sum(), 6) and data.frames.dtype == np.float32
    np.testing.assert_array_equal(data.lengths, lengths)
    for i in (0, 7, 23):
        np.testing.assert_array_equal(data.sequence(i), ARRAYS["X"][i, : lengths[i]])
    assert data.ids[3] == "take_003.mp4" and data.class_names == ["sign a", "sign b", "sign c"]
    assert data.groups[:7] == ["0", "1", "2", "0", "1", "2", "3"] and data.split is None
    np.testing.assert_array_equal(data.y, ARRAYS["y"])


def test_masks_as_key_zero_one_masks_other_number_types_and_no_optional_keys(tmp_path):
    path = write_signs(
        tmp_path / "a.npz",
        mask=None,
        masks=ARRAYS["mask"].astype(np.float64),
        X=ARRAYS["X"].astype(np.float16),
        y=ARRAYS["y"].astype(np.float32),
        class_names=None,
        groups=None,
        filenames=None,
    )
    data = read_signs(path)
    assert data.ids[12] == "row-00012" and data.class_names == ["0", "1", "2"] and data.groups is None
    assert data.y.dtype == np.int64 and data.frames.dtype == np.float32


def test_padding_values_change_nothing_and_real_values_change_the_hash(tmp_path):
    padded = np.where(ARRAYS["mask"][..., None], ARRAYS["X"], np.nan).astype(np.float32)
    one = read_signs(write_signs(tmp_path / "one.npz"))
    two = read_signs(write_signs(tmp_path / "two.npz", X=padded))
    np.testing.assert_array_equal(one.frames, two.frames)
    assert one.hashes() == two.hashes()
    other = read_signs(write_signs(tmp_path / "three.npz", **changed("X", (5, 0, 0), 9.0))).hashes()
    assert [a == b for a, b in zip(one.hashes(), other, strict=True)] == [i != 5 for i in range(24)]


def test_a_hole_in_a_mask_is_closed_in_order(tmp_path):
    data = read_signs(write_signs(tmp_path / "hole.npz", **changed("mask", (0, 1), False)))
    keep = np.flatnonzero(ARRAYS["mask"][0])
    np.testing.assert_array_equal(data.sequence(0), ARRAYS["X"][0, keep[keep != 1]])


def test_label_and_group_keys_can_be_chosen(tmp_path):
    path = write_signs(tmp_path / "a.npz", y2=ARRAYS["y"] % 2, y2_names=np.array(["x", "y"]), video=np.arange(24))
    data = read_signs(path, label_key="y2", group_key="video")
    assert data.class_names == ["x", "y"] and data.groups[5] == "5"
    np.testing.assert_array_equal(data.y, ARRAYS["y"] % 2)
    assert read_signs(write_signs(tmp_path / "b.npz", y2=ARRAYS["y"] % 2), label_key="y2").class_names == ["0", "1"]


def test_prediction_needs_no_labels(tmp_path):
    path = write_signs(tmp_path / "new.npz", y=None, class_names=None, groups=None)
    data = read_signs(path, labels=False)
    assert data.y is None and data.class_names is None and len(data) == 24
    with pytest.raises(DataError, match="y: missing"):
        read_signs(path)


BAD = [
    ("no X", {"X": None}, r"X: missing \(the file has .*y.*\)"),
    ("no mask", {"mask": None}, "mask: missing"),
    ("no y", {"y": None}, "y: missing"),
    ("rank", {"X": ARRAYS["X"][..., 0]}, r"X: has shape \(24, 12\), expected \(N, T, F\)"),
    ("empty", {"X": ARRAYS["X"][:0]}, r"X: has shape \(0, 12, 6\)"),
    ("text X", {"X": ARRAYS["X"].astype("U5")}, "X: has type <U5, expected numbers"),
    ("mask shape", {"mask": ARRAYS["mask"][:, :5]}, r"mask: has shape \(24, 5\), expected X.shape\[:2\] = \(24, 12\)"),
    ("one mask", {"mask": ARRAYS["mask"][0]}, r"mask: has shape \(12,\)"),
    ("mask values", {"mask": ARRAYS["mask"] * 2}, "mask: has type int64 with values other than 0 and 1"),
    ("empty mask row", changed("mask", ([4, 9],), False), "mask: no real frame in rows 4, 9;"),
    ("inverted mask", {"mask": ~ARRAYS["mask"] | (np.arange(12) == 11)}, "mask: looks inverted in rows? .*save ~mask"),
    ("NaN", changed("X", (7, 2, 0), np.nan), r"X: NaN or infinity in 1 real frame\(s\), first row 7 frame 2"),
    ("inf", changed("X", (8, 1, 0), np.inf), "first row 8 frame 1"),
    ("float64 overflow", changed("X", (8, 1, 0), 1e200, float), "first row 8 frame 1"),
    ("label too large", changed("y", 6, 3), "y: label 3 out of range in row 6; class_names has 3 names: expected 0..2"),
    ("label negative", changed("y", 6, -1), "y: label -1 out of range in row 6"),
    ("label fraction", changed("y", 2, 0.5, float), r"y: not a whole number in row 2 \(first: 0.5\)"),
    ("label NaN", changed("y", 2, np.nan, float), "y: not a whole number in row 2"),
    ("label text", {"y": ARRAYS["y"].astype("U1")}, r"y: has type <U1, expected class indices.*np.unique"),
    ("label length", {"y": ARRAYS["y"][:5]}, r"y: has shape \(5,\), expected \(24,\)"),
    (
        "too few names",
        {"class_names": np.array(["a", "b"])},
        "y: label 2 out of range in rows 2, 5, 8, 11, 14 ... .8 in",
    ),
    ("names rank", {"class_names": np.array([["a", "b", "c"]])}, r"class_names: has shape \(1, 3\), expected \(K,\)"),
    ("names twice", {"class_names": np.array(["a", "b", "a"])}, "class_names: 'a' stands for two classes"),
    ("groups length", {"groups": np.arange(3)}, r"groups: has shape \(3,\), expected \(24,\): one entry per sequence"),
    ("groups type", {"groups": np.zeros(24)}, "groups: has type float64, expected strings or integers"),
    ("split length", {"split": np.array(["train"])}, r"split: has shape \(1,\)"),
    (
        "split word",
        {"split": np.array(["train"] * 23 + ["dev"])},
        "split: unknown word 'dev' in row 23; use one of train",
    ),
    ("ids twice", changed("filenames", 9, "take_002.mp4"), "filenames: 'take_002.mp4' repeated in row 9"),
]


@pytest.mark.parametrize(("changes", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_each_fault_gives_its_one_error_with_file_and_key(tmp_path, changes, message):
    path = write_signs(tmp_path / "bad.npz", **changes)
    with pytest.raises(DataError, match=message) as error:
        read_signs(path)
    assert str(error.value).startswith(f"{path}: 1 problem(s)\n"), error.value


def test_all_problems_come_in_one_error(tmp_path):
    path = write_signs(
        tmp_path / "bad.npz", groups=np.arange(3), **changed("X", (7, 2, 0), np.nan), **changed("y", 6, 99)
    )
    with pytest.raises(DataError, match=r"(?s)3 problem\(s\).*y: label 99.*groups: has shape.*X: NaN"):
        read_signs(path)


def test_an_unknown_group_key_is_refused(tmp_path):
    with pytest.raises(DataError, match="video: missing, but it was asked for"):
        read_signs(write_signs(tmp_path / "a.npz"), group_key="video")


@pytest.mark.parametrize("kept", [0, 10, 500, -40])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = write_signs(tmp_path / "cut.npz")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"cut\.npz: not an \.npz file, or cut short"):
        read_signs(path)


def test_a_damaged_array_is_refused_with_its_key(tmp_path):
    path = write_signs(tmp_path / "damaged.npz")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("X.npy")
        middle = info.header_offset + info.compress_size // 2
    content = bytearray(path.read_bytes())
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(DataError, match="X: damaged or cut short"):
        read_signs(path)


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "short.npz"
    with zipfile.ZipFile(write_signs(tmp_path / "good.npz")) as good, zipfile.ZipFile(path, "w") as short:
        for name in good.namelist():
            short.writestr(name, good.read(name)[: 200 if name == "X.npy" else None])
    with pytest.raises(DataError, match="X: damaged or cut short"):
        read_signs(path)


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", ARRAYS["X"])
    for path in (tmp_path / "a.npy", tmp_path, tmp_path / "none.npz"):
        with pytest.raises(DataError, match=r"not an \.npz file|no such file"):
            read_signs(path)


@pytest.mark.parametrize("key", ["X", "y", "filenames", "class_names"])
def test_object_arrays_are_refused_and_their_code_never_runs(tmp_path, key):
    marker = tmp_path / "it_ran"
    evil = np.empty(24, dtype=object)
    evil[:] = [Payload(marker)] * 24
    path = write_signs(tmp_path / "evil.npz", **{key: evil})
    with pytest.raises(DataError, match=rf"{key}: is an object array, refused.*np\.array\(a\[.{key}.\]\.tolist\(\)\)"):
        read_signs(path)
    assert not marker.exists()
    np.load(path, allow_pickle=True)[key]
    assert marker.exists(), "the trap itself must work"


def test_object_arrays_that_are_not_needed_are_not_touched(tmp_path):
    marker = tmp_path / "it_ran"
    evil = np.array([Payload(marker), None], dtype=object)
    assert len(read_signs(write_signs(tmp_path / "a.npz", metadata=evil))) == 24
    assert not marker.exists()


def test_the_advice_on_object_arrays_works(tmp_path):
    path = write_signs(tmp_path / "old.npz", class_names=np.array(["a", "b", "c"], dtype=object))
    a = dict(np.load(path, allow_pickle=True))
    a["class_names"] = np.array(a["class_names"].tolist())
    np.savez(tmp_path / "converted.npz", **a)
    assert read_signs(tmp_path / "converted.npz").class_names == ["a", "b", "c"]


def test_one_mask_copied_to_all_sequences_is_pointed_out(tmp_path):
    mask = np.tile(np.arange(12) < 7, (24, 1))
    with pytest.warns(UserWarning, match="mask is the same for all 24 sequences"):
        read_signs(write_signs(tmp_path / "a.npz", mask=mask))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_signs(write_signs(tmp_path / "b.npz", mask=np.ones((24, 12), bool)))  # equal lengths, no padding: fine
