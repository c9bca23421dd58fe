"""Reading and writing volumes: SimpleITK and nibabel are the oracles, damaged files are refused."""

from __future__ import annotations

import doctest
import gzip
import hashlib
import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from LiverTumorSegLib import volume as volume_module
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.nifti import write_nifti
from LiverTumorSegLib.volume import read_labels, read_volume, write_labels

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "Testing" / "data" / "hcc006_arterial.nii.gz"
FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha")
SHAPE = (3, 4, 5)
SPACING_MM = (2.5, 1.5, 0.75)
RAMP = np.arange(60, dtype=np.int16).reshape(SHAPE)
FEW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def directions(draw: st.DrawFn) -> tuple[tuple[float, float, float], ...]:
    """Any rotation times any permutation and flip of the axes: both handednesses."""
    quaternion = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4)))
    assume(np.linalg.norm(quaternion) > 0.1)
    a, b, c, d = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    rotation = np.eye(3) + 2 * a * cross + 2 * cross @ cross
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    matrix = (rotation if draw(st.booleans()) else np.eye(3))[:, order] * signs
    return tuple((float(x), float(y), float(z)) for x, y, z in matrix)


def itk_image(voxels: np.ndarray, **grid: tuple) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.get("spacing_xyz", SPACING_MM[::-1]))
    image.SetOrigin(grid.get("origin", (10.0, -20.0, 30.0)))
    image.SetDirection(np.ravel(grid.get("direction", np.eye(3))).tolist())
    return image


def saved(path: Path, voxels: np.ndarray = RAMP, **grid: tuple) -> Path:
    sitk.WriteImage(itk_image(voxels, **grid), str(path))
    return path


def refusal(path: Path, read: Callable = read_volume) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "expected" in message
    assert "\n" not in message
    return message


def assert_same_grid(found: Geometry, image: sitk.Image) -> None:
    """Every corner voxel lies where SimpleITK puts it, to 1e-4 mm."""
    assert found.shape == image.GetSize()[::-1]
    for index in itertools.product(*[(0, n - 1) for n in image.GetSize()]):
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(found.lps_of(np.array(index[::-1])), expected, atol=1e-4)


@pytest.mark.parametrize("ending", FORMATS)
@FEW
@given(direction=directions(), origin=st.tuples(*[st.floats(-500, 500)] * 3))
def test_labels_round_trip_on_any_grid(
    ending: str, direction: tuple, origin: tuple, tmp_path: Path
) -> None:
    path = tmp_path / f"labels{ending}"
    labels = (RAMP % 3).astype(np.uint8)
    grid = Geometry(SHAPE, SPACING_MM, origin, direction)
    write_labels(path, labels, grid)

    read, found = read_labels(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)
    assert found.shape == SHAPE
    np.testing.assert_allclose(found.spacing_mm, SPACING_MM, rtol=1e-6)
    np.testing.assert_allclose(found.direction, direction, atol=1e-6)
    np.testing.assert_allclose(found.origin_mm, origin, rtol=1e-6, atol=1e-6)
    assert_same_grid(found, sitk.ReadImage(str(path)))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@FEW
@given(direction=directions())
def test_written_nifti_has_sform_and_qform_alike(direction: tuple, tmp_path: Path) -> None:
    """As far as 32-bit quaternions go: near half a turn they are good to 1e-3 only."""
    path = tmp_path / "labels.nii.gz"
    write_labels(path, np.zeros(SHAPE, np.uint8), Geometry(SHAPE, SPACING_MM, (1, 2, 3), direction))
    header = nib.load(path).header
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=3e-3)


@FEW
@given(direction=directions(), kind=st.sampled_from([np.uint8, np.float32]))
def test_written_nifti_as_nibabel_reads_it(direction: tuple, kind: type, tmp_path: Path) -> None:
    grid = Geometry(SHAPE, SPACING_MM, (1, 2, 3), direction)
    voxels = (RAMP / 4).astype(np.float16)[::-1]
    write_nifti(tmp_path / "p.nii.gz", voxels, kind, grid)
    image = nib.load(tmp_path / "p.nii.gz")
    assert image.get_data_dtype() == kind
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(image.get_fdata().T, voxels.astype(kind))
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(image.affine, lps_to_ras @ grid.index_to_lps(), atol=1e-5)


def test_the_same_labels_are_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the time, which gzip writes into a file unless told otherwise."""
    path, grid = tmp_path / "labels.nii.gz", Geometry(SHAPE, SPACING_MM)
    write_labels(path, (RAMP % 3).astype(np.uint8), grid)
    assert path.read_bytes()[4:8] == bytes(4)


@pytest.mark.parametrize("ending", FORMATS)
@FEW
@given(direction=directions())
def test_a_ct_lies_where_simpleitk_puts_it(ending: str, direction: tuple, tmp_path: Path) -> None:
    path = saved(tmp_path / f"ct.01{ending}", direction=direction)
    ct = read_volume(path)
    assert_same_grid(ct.geometry, sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(ct.hu, RAMP)
    assert (ct.hu.dtype, ct.name, ct.repairs) == (np.float32, "ct.01", ())


@pytest.mark.parametrize("code", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (1.5, -1024.0), (0.0, 7.0)])
def test_nifti_voxels_as_nibabel_reads_them(code: str, scaling: tuple, tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">" if code[0] == ">" else "<")
    header.set_data_dtype(np.dtype(code))
    raw = bytearray(nib.Nifti1Image(RAMP.T.astype(code), np.eye(4), header).to_bytes())
    raw[112:120] = struct.pack(">ff" if code[0] == ">" else "<ff", *scaling)
    path = tmp_path / "ct.nii"
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_volume(path).hu, nib.load(path).get_fdata().T)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_gzip_is_told_by_content_not_by_name(compress: Callable, tmp_path: Path) -> None:
    raw = nib.Nifti1Image(RAMP.T, np.eye(4)).to_bytes()
    for ending in (".nii", ".nii.gz"):
        path = tmp_path / f"ct{ending}"
        path.write_bytes(compress(raw))
        np.testing.assert_array_equal(read_volume(path).hu, RAMP)


@pytest.mark.parametrize("sform_code", range(5))
@pytest.mark.parametrize("qform_code", range(5))
def test_of_sform_and_qform_the_one_that_simpleitk_takes(
    sform_code: int, qform_code: int, tmp_path: Path
) -> None:
    image = nib.Nifti1Image(RAMP.T, None)
    affine = np.diag([0.75, 1.5, 2.5, 1.0])
    image.set_sform(affine, sform_code)
    affine[:3, 3] = 10, 20, 30
    image.set_qform(affine, qform_code)
    path = tmp_path / "ct.nii"
    nib.save(image, path)
    ct = read_volume(path)
    assert_same_grid(ct.geometry, sitk.ReadImage(str(path)))
    if sform_code and qform_code:
        taken = "sform" if sform_code == 1 else "qform"
        assert ct.repairs == (
            f"sform and qform place voxels up to 37.4 mm apart: took the {taken}",
        )
    elif not sform_code and not qform_code:
        assert "says nothing of orientation" in ct.repairs[0]
    else:
        assert ct.repairs == ()


def nifti(path: Path, affine: np.ndarray, changes: dict[int, bytes] | None = None) -> Path:
    """A NIfTI of the ramp with bytes of its header overwritten, {offset: bytes}."""
    raw = bytearray(nib.Nifti1Image(RAMP.T, affine).to_bytes())
    for offset, block in (changes or {}).items():
        raw[offset : offset + len(block)] = block
    path.write_bytes(raw)
    return path


def sheared(path: Path, ratio: float, qform_code: int) -> Path:
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    affine[1, 2] = ratio * 2.5
    image = nib.Nifti1Image(RAMP.T, None)
    image.set_sform(affine, 1)
    image.set_qform(affine, qform_code, strip_shears=True)
    nib.save(image, path)
    return path


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def text_replaced(path: Path, old: bytes, new: bytes) -> Path:
    saved(path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def vector_nifti(folder: Path) -> Path:
    path = folder / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3, 1, 3), np.int16), np.eye(4)), path)
    return path


def saved_4d(path: Path, frames: int) -> Path:
    image = sitk.JoinSeries([itk_image(RAMP + k) for k in range(frames)])
    sitk.WriteImage(image, str(path))
    return path


PLAIN = np.diag([0.75, 1.5, 2.5, 1.0])
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "a.nii.gz", "No such file"),
    "missing folder": (lambda d: d / "nowhere", "No such file"),
    "empty": (lambda d: written(d / "a.nii.gz", b""), "empty file"),
    "text as nifti": (lambda d: written(d / "a.nii.gz", b"hello"), "without a NIfTI header"),
    "long text as nifti": (lambda d: written(d / "a.nii", b"x" * 999), "without a NIfTI header"),
    "text as nrrd": (lambda d: written(d / "a.nrrd", b"hello"), "no image of a known format"),
    "text as mha": (lambda d: written(d / "a.mha", b"hello"), "cannot be read"),
    "other ending": (lambda d: written(d / "a.png", b"hello"), "'.png'"),
    "one dicom file": (lambda d: written(d / "a.dcm", b"hello"), "give the folder"),
    "4D nifti": (lambda d: saved_4d(d / "a.nii", 2), "4D of 5x4x3x2"),
    "4D mha": (lambda d: saved_4d(d / "a.mha", 2), "4D of 5x4x3x2"),
    "4D nrrd": (lambda d: saved_4d(d / "a.nrrd", 2), "found"),
    "2D nifti": (lambda d: written_2d(d / "a.nii"), "2D of 5x4"),
    "2D mha": (lambda d: written_2d(d / "a.mha"), "2D of 5x4"),
    "single slice": (lambda d: saved(d / "a.nii", RAMP[:1]), "single slice of 5x4x1"),
    "RGB nifti": (lambda d: saved_rgb(d / "a.nii"), "RGB"),
    "RGB mha": (lambda d: saved_rgb(d / "a.mha"), "vector of 8-bit"),
    "vector nifti": (vector_nifti, "5D of 5x4x3x1x3"),
    "complex": (lambda d: saved(d / "a.nii", RAMP.astype(np.complex64)), "datatype 32"),
    "complex nrrd": (lambda d: written_complex(d / "a.nrrd"), "found"),
    "nifti-2": (lambda d: written_nifti2(d / "a.nii"), "NIfTI-2"),
    "pixdim 0": (lambda d: nifti(d / "a.nii", PLAIN, {88: floats(0)}), "1.5, 0.0]"),
    "pixdim nan": (lambda d: nifti(d / "a.nii", PLAIN, {88: floats(np.nan)}), "nan]"),
    "pixdim negative": (lambda d: nifti(d / "a.nii", PLAIN, {88: floats(-2.5)}), "-2.5]"),
    "pixdim 1 mm of 2.5": (lambda d: nifti(d / "a.nii", PLAIN, {88: floats(1)}), "1.5 x 2.5 mm in"),
    "pixdim 2 % off": (lambda d: nifti(d / "a.nii", PLAIN, {88: floats(2.55)}), "x 2.55 mm in pix"),
    "sform nan": (lambda d: nifti(d / "a.nii", PLAIN, {280: floats(np.nan)}), "nan x 1.5 x 2.5"),
    "quaternion": (
        lambda d: nifti(d / "a.nii", PLAIN, {252: b"\1\0", 256: floats(2, 0, 0)}),
        "quaternion [2.0, 0.0, 0.0]",
    ),
    "micrometers": (lambda d: nifti(d / "a.nii", PLAIN, {123: b"\3"}), "micrometers"),
    "no axes": (lambda d: nifti(d / "a.nii", PLAIN, {40: b"\0\0"}), "axes [0,"),
    "negative size": (lambda d: nifti(d / "a.nii", PLAIN, {42: b"\xff\xff"}), "axes [3, -1"),
    "voxels inside header": (lambda d: nifti(d / "a.nii", PLAIN, {108: floats(8)}), "byte 8.0"),
    "intercept nan": (lambda d: nifti(d / "a.nii", PLAIN, {112: floats(2, np.nan)}), "offset nan"),
    "huge claim": (lambda d: nifti(d / "a.nii", PLAIN, {42: b"\xff\x7f" * 3}), "cut off"),
    "huge claim zipped": (lambda d: zipped_huge(d / "a.nii.gz"), "cut off"),
    "sheared 15 degrees": (lambda d: sheared(d / "a.nii", 0.2679, 0), "25.9%"),
    "sheared with a qform": (lambda d: sheared(d / "a.nii", 0.2679, 1), "25.9%"),
    "spacing 0 mha": (
        lambda d: text_replaced(d / "a.mha", b"0.75 1.5 2.5", b"0.75 1.5 0"),
        "spacing of 0 mm",
    ),
    "spacing nan mha": (
        lambda d: text_replaced(d / "a.mha", b"0.75 1.5 2.5", b"0.75 1.5 nan"),
        "spacing of 0 mm",
    ),
    "sheared mha": (
        lambda d: text_replaced(d / "a.mha", b"1 0 0 0 1 0 0 0 1", b"1 0 0.2 0 1 0 0 0 1"),
        "20.0%",
    ),
    "spacing 0 nrrd": (
        lambda d: text_replaced(d / "a.nrrd", b"(0,0,2.5)", b"(0,0,0)"),
        "spacing of 0 mm",
    ),
    "sheared nrrd": (lambda d: text_replaced(d / "a.nrrd", b"(0,0,2.5)", b"(0,1,2.5)"), "37.1%"),
}


def written_2d(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(RAMP[0]), str(path))
    return path


def saved_rgb(path: Path) -> Path:
    if path.suffix == ".nii":
        color = np.zeros((5, 4, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
        nib.save(nib.Nifti1Image(color, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), True), str(path))
    return path


def written_complex(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(RAMP.astype(np.complex64)), str(path))
    return path


def written_nifti2(path: Path) -> Path:
    nib.save(nib.Nifti2Image(RAMP.T, PLAIN), path)
    return path


def zipped_huge(path: Path) -> Path:
    raw = nifti(path.with_name("raw"), PLAIN, {42: b"\xff\x7f" * 3})
    return written(path, gzip.compress(raw.read_bytes()))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sound_ct_is_refused(case: str, tmp_path: Path) -> None:
    make, finding = REFUSED[case]
    assert finding in refusal(make(tmp_path))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_single_frame_of_4d_is_a_ct(ending: str, tmp_path: Path) -> None:
    path = saved_4d(tmp_path / f"ct{ending}", 1)
    np.testing.assert_array_equal(read_volume(path).hu, RAMP)


@pytest.mark.parametrize("qform_code", [0, 1])
def test_slight_shear_is_mended_and_told(qform_code: int, tmp_path: Path) -> None:
    ct = read_volume(sheared(tmp_path / "ct.nii", 0.008, qform_code))
    axes = np.array(ct.geometry.direction)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    if not qform_code:
        assert ct.repairs == ("voxel axes were 0.80% off a right angle: turned to right angles",)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("zipped", [True, False])
@FEW
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(
    ending: str, zipped: bool, fraction: float, tmp_path: Path
) -> None:
    path = tmp_path / f"ct{ending}"
    noise = np.random.default_rng(0).integers(-1000, 1000, (8, 9, 10)).astype(np.int16)
    sitk.WriteImage(itk_image(noise), str(path), zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    refusal(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@FEW
@given(place=st.integers(100, 1000), bit=st.integers(0, 7))
def test_a_bit_flipped_in_zipped_voxels_is_refused(
    ending: str, place: int, bit: int, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (8, 9, 10)).astype(np.int16)
    path = tmp_path / f"ct{ending}"
    sitk.WriteImage(itk_image(noise), str(path), True)
    content = bytearray(path.read_bytes())
    content[-place] ^= 1 << bit
    path.write_bytes(content)
    assert "damaged" in refusal(path) or "cut off" in refusal(path)


@pytest.mark.parametrize("names", [("ct.mhd", "ct.zraw"), ("ct.nhdr", "ct.raw.gz")])
def test_voxels_in_a_file_of_their_own_are_read_and_checked(
    names: tuple[str, str], tmp_path: Path
) -> None:
    header, voxels = (tmp_path / name for name in names)
    sitk.WriteImage(itk_image(RAMP), str(header), True)
    np.testing.assert_array_equal(read_volume(header).hu, RAMP)
    voxels.write_bytes(voxels.read_bytes()[:-20])
    with pytest.raises(InputError, match="cut off") as caught:
        read_volume(header)
    assert str(voxels) in str(caught.value)


@pytest.mark.parametrize("ending", FORMATS)
def test_voxels_without_a_number_become_air_and_are_counted(ending: str, tmp_path: Path) -> None:
    voxels = RAMP.astype(np.float32)
    voxels[0, 0, :2] = np.nan, np.inf
    voxels[2, 3, 4] = -np.inf
    ct = read_volume(saved(tmp_path / f"ct{ending}", voxels))
    expected = RAMP.astype(np.float32)
    expected[0, 0, :2] = expected[2, 3, 4] = -1024
    np.testing.assert_array_equal(ct.hu, expected)
    assert ct.repairs == ("3 voxels NaN or infinite: set to -1024 HU",)


def test_padding_below_air_is_clamped_and_counted(tmp_path: Path) -> None:
    voxels = RAMP.copy()
    voxels[0, 0] = -2048, -1025, -1024, -1023, 3071
    ct = read_volume(saved(tmp_path / "ct.nrrd", voxels))
    assert ct.hu[0, 0].tolist() == [-1024, -1024, -1024, -1023, 3071]
    assert ct.repairs == ("2 voxels below -1024 HU: set to -1024 HU",)


def test_whole_numbers_in_a_float_file_are_labels(tmp_path: Path) -> None:
    labels, _ = read_labels(saved(tmp_path / "labels.nii", (RAMP % 3).astype(np.float32)))
    assert np.issubdtype(labels.dtype, np.integer)
    np.testing.assert_array_equal(labels, RAMP % 3)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_fractions_are_no_labels(value: float, tmp_path: Path) -> None:
    voxels = np.full(SHAPE, value, np.float32)
    assert "fractions or NaN" in refusal(saved(tmp_path / "labels.nii.gz", voxels), read_labels)


def test_labels_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    for labels in (np.zeros((3, 4, 6), np.uint8), np.zeros(SHAPE, np.int64)):
        with pytest.raises(ValueError, match="expected uint8 labels of shape"):
            write_labels(tmp_path / "labels.nii", labels, Geometry(SHAPE, SPACING_MM))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("labels.png", "'.png'"),
        ("nowhere/labels.nii.gz", "No such file or directory"),
        ("file/labels.nii.gz", "Not a directory"),
        ("folder.nii.gz", "directory"),
    ],
)
def test_where_labels_cannot_go_is_told(name: str, finding: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.nii.gz").mkdir()
    before = sorted(tmp_path.iterdir())
    labels, grid = np.zeros(SHAPE, np.uint8), Geometry(SHAPE, SPACING_MM)
    assert finding in refusal(tmp_path / name, lambda path: write_labels(path, labels, grid))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", FORMATS)
def test_a_full_disk_leaves_the_old_file(ending: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits need POSIX")
    path = tmp_path / f"labels{ending}"
    grid = Geometry((20, 20, 20), (1.0, 1.0, 1.0))
    write_labels(path, np.zeros(grid.shape, np.uint8), grid)
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, grid.shape).astype(np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="could not be written whole"):
            write_labels(path, noise, grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)


def write_slice(path: Path, position: tuple, value: int, **changes: object) -> Path:
    """A CT slice of 4 rows and 5 columns; stored value `value` + column, HU = stored - 1000."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID = "SECRET^NAME", "SECRET-ID"
    data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SeriesInstanceUID, data.SeriesDescription = "1.2.3", "PORTAL"
    data.ImagePositionPatient = list(position)
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [1.5, 0.75]
    data.Rows, data.Columns = 4, 5
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1000
    data.PixelData = (value + np.tile(np.arange(5, dtype=np.int16), (4, 1))).tobytes()
    for keyword, changed in changes.items():
        setattr(data, keyword, changed)
    path.parent.mkdir(exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, heights: tuple[float, ...] = (0, 2.5, 5, 7.5), **changes) -> Path:
    """Slices at these heights, named so that neither the names nor their order tell the height."""
    for k, z in enumerate(heights):
        write_slice(folder / f"im{7 * k % 5}_{k % 3}.dcm", (10.0, -20.0, z), 100 * k, **changes)
    return folder


@pytest.fixture
def private_refusal(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """As refusal(), and the message holds no patient data."""

    def check(folder: Path) -> str:
        with pytest.raises(InputError) as caught:
            read_volume(folder)
        assert str(folder) in str(caught.value)
        assert "SECRET" not in str(caught.value)
        return str(caught.value)

    return check


@pytest.mark.parametrize("order", [1, -1])
def test_dicom_slices_are_sorted_by_position(order: int, tmp_path: Path) -> None:
    ct = read_volume(write_series(tmp_path / "ct", (0, 2.5, 5, 7.5)[::order]))
    column = np.arange(5) - 1000
    expected = [column + 100 * k for k in range(4)][::order]
    np.testing.assert_array_equal(ct.hu, np.repeat(np.array(expected)[:, None], 4, axis=1))
    assert ct.geometry == Geometry((4, 4, 5), SPACING_MM, (10.0, -20.0, 0.0))
    assert (ct.hu.dtype, ct.name, ct.repairs) == (np.float32, "DICOM series", ())


def test_dicom_oblique_voxels_lie_where_the_standard_puts_them(tmp_path: Path) -> None:
    """PS3.3 C.7.6.2.1.1: position + column * spacing * row cosines + row * spacing * columns'."""
    for k in range(3):
        position = (10.0, -20.0, 30.0 + 2.5 * k)
        write_slice(tmp_path / str(k), position, 0, ImageOrientationPatient=list(OBLIQUE))
    found = read_volume(tmp_path).geometry
    along_row, down_column = np.array(OBLIQUE).reshape(2, 3)
    for k, row, column in itertools.product(range(3), range(4), range(5)):
        expected = np.array([10.0, -20.0, 30.0 + 2.5 * k])
        expected = expected + column * 0.75 * along_row + row * 1.5 * down_column
        np.testing.assert_allclose(found.lps_of(np.array([k, row, column])), expected, atol=1e-9)


def test_dicom_padding_is_clamped(tmp_path: Path) -> None:
    write_series(tmp_path, (0, 2.5))
    write_slice(tmp_path / "padded", (10.0, -20.0, 5.0), -1048)
    ct = read_volume(tmp_path)
    assert ct.hu.min() == -1024
    assert ct.repairs == ("20 voxels below -1024 HU: set to -1024 HU",)


def test_dicom_neighbors_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(200))
    (tmp_path / "subfolder").mkdir()
    other = {"SeriesInstanceUID": "1.9"}
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_slice(tmp_path / "scout", (0.0, 0.0, 0.0), 0, ImageType=scout, **other)
    write_slice(
        tmp_path / "mr", (0.0, 0.0, 0.0), 0, Modality="MR", SOPClassUID=f"{CTImageStorage}0"
    )
    assert read_volume(tmp_path).hu.shape == (4, 4, 5)


def test_dicom_missing_slice_is_refused(tmp_path: Path, private_refusal: Callable) -> None:
    message = private_refusal(write_series(tmp_path, (0, 2.5, 7.5, 10)))
    assert "2.5 mm apart" in message
    assert "gap of 5 mm between slices 2 and 3 of 4" in message


@pytest.mark.parametrize(
    ("last", "even"), [(5.04, True), (5.06, False), (4.96, True), (4.94, False)]
)
def test_dicom_spacing_may_vary_by_a_twentieth_of_a_millimeter(
    last: float, even: bool, tmp_path: Path, private_refusal: Callable
) -> None:
    write_series(tmp_path, (-2.5, 0, 2.5, last))
    if even:
        assert read_volume(tmp_path).geometry.spacing_mm[0] == pytest.approx((last + 2.5) / 3)
    else:
        assert f"gap of {last - 2.5:.4g} mm between slices 3 and 4" in private_refusal(tmp_path)


def test_dicom_two_series_are_named(tmp_path: Path, private_refusal: Callable) -> None:
    write_series(tmp_path)
    for k in range(2):
        changes = {"SeriesInstanceUID": "1.9", "SeriesDescription": "ARTERIAL"}
        write_slice(tmp_path / f"other{k}", (0.0, 0.0, 2.5 * k), 0, **changes)
    message = private_refusal(tmp_path)
    assert "found 2: 4 slices 'PORTAL'; 2 slices 'ARTERIAL'" in message


def shifted(folder: Path) -> Path:
    for k in range(4):
        write_slice(folder / str(k), (10.0, -20.0 + k, 2.5 * k), 0)
    return folder


def with_one_more(folder: Path, **changes: object) -> Path:
    write_slice(write_series(folder) / "more", (10.0, -20.0, 10.0), 0, **changes)
    return folder


def with_damaged_last(folder: Path, kept: float) -> Path:
    path = write_slice(write_series(folder) / "more", (10.0, -20.0, 10.0), 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    return folder


DICOM_REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty folder": (lambda d: d, "no DICOM image"),
    "no dicom": (lambda d: written(d / "a.txt", b"hello").parent, "no DICOM image"),
    "nifti in a folder": (lambda d: saved(d / "a.nii").parent, "no DICOM image"),
    "other modality": (
        lambda d: write_series(d, Modality="MR", SOPClassUID=f"{CTImageStorage}0"),
        "modality MR",
    ),
    "one slice": (lambda d: write_series(d, (0,)), "found one"),
    "doubled slice": (lambda d: with_one_more(d, ImagePositionPatient=[10, -20, 5]), "found 1 at"),
    "tilted gantry": (shifted, "shifted by up to 3 mm"),
    "other pixel spacing": (lambda d: with_one_more(d, PixelSpacing=[1.5, 0.8]), "'more'"),
    "other orientation": (
        lambda d: with_one_more(d, ImageOrientationPatient=list(OBLIQUE)),
        "'more'",
    ),
    "other size": (lambda d: with_one_more(d, Rows=2, PixelData=bytes(20)), "'more'"),
    "no position": (lambda d: with_one_more(d, ImagePositionPatient=None), "more: expected pos"),
    "no spacing": (lambda d: write_series(d, PixelSpacing=None), "expected position"),
    "zero spacing": (lambda d: write_series(d, PixelSpacing=[0, 0.75]), "above 0 mm"),
    "several frames": (
        lambda d: with_one_more(d, NumberOfFrames=2, PixelData=bytes(80)),
        "found 2 frames",
    ),
    "slice cut in the header": (lambda d: with_damaged_last(d, 0.5), "damaged or cut off"),
    "slice cut in the pixels": (lambda d: with_damaged_last(d, 0.98), "damaged or cut off"),
}


@pytest.mark.parametrize("case", DICOM_REFUSED)
def test_what_is_no_sound_series_is_refused(
    case: str, tmp_path: Path, private_refusal: Callable
) -> None:
    make, finding = DICOM_REFUSED[case]
    assert finding in private_refusal(make(tmp_path))


def test_the_sample_is_a_ct_of_the_liver_in_hu() -> None:
    ct = read_volume(SAMPLE)
    assert ct.hu.shape == (74, 391, 509)
    assert ct.geometry.spacing_mm == (2.5, 0.78125, 0.78125)
    assert (ct.name, ct.repairs) == ("hcc006_arterial", ())
    assert (ct.hu.min(), ct.hu.max()) == (-1024, 1303)
    liver = ct.hu[40, 150:250, 80:180]
    assert 60 < np.median(liver) < 130
    assert SAMPLE.stat().st_size < 15e6


def test_the_sample_names_nobody_and_is_the_file_that_the_readme_describes() -> None:
    digest = hashlib.sha256(SAMPLE.read_bytes()).hexdigest()
    assert digest in SAMPLE.with_name("README.md").read_text(encoding="utf-8")
    header = nib.load(SAMPLE).header
    texts = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
    assert {header[field].item() for field in texts} == {b""}
    assert not header.extensions


def test_doctests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    result = doctest.testmod(volume_module)
    assert result.attempted > 0
    assert result.failed == 0
