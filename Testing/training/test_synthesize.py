"""CTs synthesized from label maps: the shapes are the map's, all else is drawn by a seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import read_labels, read_volume
from Testing.phantom import RAS, ball, phantom, write_case, write_image
from Training import prepare, prepare_case, synthesize
from Training.anatomy import NAMES, Tissue, liver_labels, merged, read_anatomy, read_meanings
from Training.dataset import read_data_set
from Training.folds import fold_division
from Training.interior import fill_interior
from Training.random_fields import ellipsoid, smooth_field
from Training.synthetic_hu import (
    LOOKS,
    PHASES,
    Scanner,
    add_couch,
    draw_means,
    paint,
    scan,
)

SHAPE, SPACING_MM = (44, 60, 80), (4.0, 4.0, 4.0)
SHARP = Scanner(blur_mm=(0.1, 0.1, 0.1), noise_hu=2.0, grain_mm=(0.5, 0.5, 0.5), couch=False)


def torso() -> np.ndarray:
    """A drawn body: spine, ribs, liver with a vein, a tumor and a cyst; uint8, the map's values."""
    tissues = np.zeros(SHAPE, np.uint8)
    body = ball((22, 28, 40), (1e6, 22, 34), SHAPE)
    tissues[body] = Tissue.BODY
    tissues[ball((22, 40, 40), (1e6, 5, 5), SHAPE)] = Tissue.BONE
    ribs = ball((22, 28, 40), (1e6, 19, 31), SHAPE) & ~ball((22, 28, 40), (1e6, 18, 30), SHAPE)
    ribs[::2] = False
    tissues[ribs] = Tissue.BONE
    tissues[ball((20, 26, 25), (12, 12, 13), SHAPE)] = Tissue.LIVER
    tissues[:, 25:28, 25:28] = np.where(body[:, 25:28, 25:28], Tissue.PORTAL_VEIN, 0)
    tissues[ball((15, 22, 20), (3, 3, 3), SHAPE)] = Tissue.TUMOR
    tissues[ball((24, 30, 20), (2, 2, 2), SHAPE)] = Tissue.CYST
    return tissues


def write_anatomies(folder: Path, *names: str, grid: Geometry | None = None) -> Path:
    """Label maps of the torso with values of their own order."""
    folder.mkdir()
    meanings = [*NAMES]
    (folder / "labels.json").write_text(json.dumps({"names": meanings}))
    values = np.zeros(256, np.uint8)
    for value, name in enumerate(meanings):
        values[NAMES[name]] = value
    for name in names:
        grid = grid or Geometry(SHAPE, SPACING_MM, origin_mm=(-160.0, -120.0, 40.0))
        write_image(folder / f"{name}_labelmap.nii.gz", values[torso()], grid)
    return folder


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def run(anatomies: Path, output: Path, *options: str) -> int:
    return synthesize.main([str(anatomies), "-o", str(output), "--spacing-mm", "4", *options])


# Shapes


def test_blocks_become_their_most_frequent_label() -> None:
    labels = np.array([[[1, 1, 5, 5, 9], [1, 2, 5, 7, 9]], [[1, 2, 7, 7, 9], [3, 2, 7, 5, 9]]])
    assert merged(labels, (2, 2, 2)).tolist() == [[[1, 5]]]  # 1: 4 of 8; 5 and 7: 4 each, the lower
    assert merged(labels, (1, 1, 1)).tolist() == labels.tolist()


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_coarse_grid_lies_where_the_label_map_does(tmp_path: Path, factor: int) -> None:
    """A shape keeps its centroid in the patient, however the file is oriented."""
    turned = Geometry(SHAPE, SPACING_MM, origin_mm=(150.0, 90.0, 7.0), direction=RAS)
    for number, grid in enumerate((Geometry(SHAPE, SPACING_MM, (1.0, 2.0, 3.0)), turned)):
        folder = write_anatomies(tmp_path / f"a{number}", "one", grid=grid)
        anatomy = read_anatomy(
            folder / "one_labelmap.nii.gz", read_meanings(folder), factor * SPACING_MM[0]
        )
        assert anatomy.geometry.spacing_mm == tuple(factor * mm for mm in SPACING_MM)
        assert np.allclose(anatomy.geometry.direction, np.eye(3))
        for tissue in (Tissue.LIVER, Tissue.TUMOR):
            found = anatomy.geometry.lps_of(np.argwhere(anatomy.tissues == tissue).mean(axis=0))
            drawn = grid.lps_of(np.argwhere(torso() == tissue).mean(axis=0))
            assert np.allclose(found, drawn, atol=0.01 if factor == 1 else SPACING_MM[0])


def test_the_liver_has_its_vessels_and_cysts() -> None:
    tissues = torso()
    labels = liver_labels(tissues, SPACING_MM)
    assert np.array_equal(labels == 2, tissues == Tissue.TUMOR)
    assert (labels[np.isin(tissues, (Tissue.LIVER, Tissue.CYST))] == 1).all()
    vein = tissues == Tissue.PORTAL_VEIN
    planes = np.flatnonzero((vein & (labels == 1)).any(axis=(1, 2)))
    assert 8 <= planes[0] <= 12  # the liver's slices are 8 to 32; the vein leaves it at both ends
    assert 28 <= planes[-1] <= 32
    assert (labels[12:28][vein[12:28]] == 1).all()
    assert not labels[np.isin(tissues, (Tissue.BODY, Tissue.BONE, Tissue.AIR))].any()


# What nobody drew


@pytest.mark.parametrize("seed", range(3))
def test_only_undrawn_voxels_are_filled_and_all_of_them(seed: int) -> None:
    drawn = torso()
    filled = fill_interior(drawn, SPACING_MM, random(seed))
    assert not (filled == Tissue.BODY).any()
    known = drawn != Tissue.BODY
    # What a drawn stomach holds is made up; none is drawn here.
    assert np.array_equal(filled[known], drawn[known])
    assert np.array_equal(drawn, torso())


def test_the_liver_gets_neighbors_where_they_belong() -> None:
    filled = fill_interior(torso(), SPACING_MM, random())
    centers = {t: np.argwhere(filled == t).mean(axis=0) for t in np.unique(filled)}
    top = np.argwhere(np.isin(filled, (Tissue.LIVER, Tissue.TUMOR)))[:, 0].max()
    assert centers[Tissue.LUNG][0] > top - 6
    assert centers[Tissue.HEART][0] > centers[Tissue.LIVER][0]
    assert centers[Tissue.SPLEEN][2] > 40  # left of the middle
    assert centers[Tissue.STOMACH][2] > 40
    assert centers[Tissue.STOMACH][1] < centers[Tissue.SPLEEN][1]  # in front of the spleen
    depth = ndimage.distance_transform_edt(filled != Tissue.AIR, SPACING_MM)
    assert depth[filled == Tissue.LUNG].min() > 10.0
    inside = np.isin(filled, (Tissue.GUT, Tissue.GUT_FLUID, Tissue.GAS))
    assert depth[inside].min() > 10.0


def test_drawn_lungs_are_the_only_ones() -> None:
    drawn = torso()
    drawn[36:, 20:34, 15:30] = Tissue.LUNG
    filled = fill_interior(drawn, SPACING_MM, random())
    assert np.array_equal(filled == Tissue.LUNG, drawn == Tissue.LUNG)


def test_a_body_without_bones_is_filled() -> None:
    drawn = torso()
    drawn[drawn == Tissue.BONE] = Tissue.BODY
    assert not (fill_interior(drawn, SPACING_MM, random()) == Tissue.BODY).any()


def test_a_field_is_as_smooth_as_told() -> None:
    """White noise smoothed by s correlates as exp(-d^2 / 4 s^2) at a distance d."""
    field = smooth_field((60, 80, 100), (2.0, 1.0, 1.0), 6.0, random())
    assert field.mean() == pytest.approx(0, abs=1e-5)
    assert field.std() == pytest.approx(1, abs=1e-4)
    for axis, step in ((0, 3), (1, 6), (2, 6)):
        one, other = np.split(field, [step], axis=axis)[1], np.split(field, [-step], axis=axis)[0]
        assert (one * other).mean() == pytest.approx(np.exp(-(6**2) / (4 * 6**2)), abs=0.12)


def test_an_ellipsoid_has_its_volume_and_turns() -> None:
    shape, spacing = (40, 60, 60), (2.0, 1.0, 1.0)
    still = np.zeros(shape, np.float32)
    made = ellipsoid(shape, spacing, (40, 30, 30), (20, 20, 10), still)
    assert made.sum() * 2.0 == pytest.approx(4 / 3 * np.pi * 20 * 20 * 10, rel=0.02)
    assert [made[20, 12, 30], made[20, 30, 12]] == [True, False]
    turned = ellipsoid(shape, spacing, (40, 30, 30), (20, 20, 10), still, turn_deg=90)
    assert [turned[20, 12, 30], turned[20, 30, 12]] == [False, True]
    assert ellipsoid(shape, spacing, (40, 30, 30), (20, 20, 10), still + 0.2).sum() > made.sum()


# HU


def test_every_tissue_has_a_look() -> None:
    assert set(LOOKS) == {*Tissue} - {Tissue.BODY}


@pytest.mark.parametrize(
    ("phase", "low", "high"),
    [("none", 40, 65), ("arterial", 55, 85), ("portal", 95, 135), ("late", 80, 115)],
)
def test_livers_are_as_bright_as_their_phase(phase: str, low: float, high: float) -> None:
    drawn = [draw_means(phase, random(seed)) for seed in range(200)]
    median = {t: np.median([means[t] for means in drawn]) for t in LOOKS}
    assert low < median[Tissue.LIVER] < high
    assert median[Tissue.FAT] == pytest.approx(-104, abs=3)
    if phase == "portal":
        assert median[Tissue.PORTAL_VEIN] > median[Tissue.LIVER] + 40 > median[Tissue.TUMOR] + 70
    if phase == "arterial":
        assert median[Tissue.ARTERY] > median[Tissue.PORTAL_VEIN] + 150
    assert set(PHASES) == {"none", "arterial", "portal", "late"}


def test_organs_have_the_hu_that_was_drawn() -> None:
    tissues = torso()
    tissues[tissues == Tissue.BODY] = Tissue.FAT
    means = draw_means("portal", random(1))
    with mock.patch.dict(LOOKS, {t: replace(look, texture_sd=1) for t, look in LOOKS.items()}):
        hu = scan(paint(tissues, means, SPACING_MM, random(2)), SPACING_MM, SHARP, random(3))
    assert hu.dtype == np.int16
    for tissue in (Tissue.LIVER, Tissue.TUMOR, Tissue.CYST, Tissue.BONE, Tissue.FAT, Tissue.AIR):
        assert np.median(hu[tissues == tissue]) == pytest.approx(means[tissue], abs=2.5)


def test_a_scan_mixes_at_boundaries_and_has_its_noise() -> None:
    hu = np.zeros((30, 40, 40), np.float32)
    hu[:, :, 20:] = 100.0
    scanner = Scanner((0.1, 2.0, 2.0), noise_hu=10.0, grain_mm=(0.3, 1.0, 1.0), couch=False)
    seen = scan(hu, (1.0, 1.0, 1.0), scanner, random())
    # 0.5 mm from an edge blurred by 2 mm: the normal distribution at 0.25 SD.
    assert seen[:, :, 20].mean() == pytest.approx(59.9, abs=1.5)
    assert seen[:, :, :10].std() == pytest.approx(10, rel=0.1)
    flat = seen[:, :, :10].astype(float)
    apart = (flat[:, 1:] * flat[:, :-1]).mean() / (flat**2).mean()
    assert apart == pytest.approx(np.exp(-0.25), abs=0.1)


def test_the_couch_lies_under_the_body_in_air() -> None:
    body = ball((10, 20, 40), (1e6, 12, 20), (20, 60, 80))
    hu = np.where(body, 50.0, -1000.0).astype(np.float32)
    add_couch(hu, body, (4.0, 4.0, 4.0), random())
    assert (hu[body] == 50).all()
    couch = ~body & (hu > -500)
    assert couch.any()
    assert np.argwhere(couch)[:, 1].min() > 20
    assert (hu[:, :20][~body[:, :20]] == -1000).all()


# The command line


def test_cases_have_the_shapes_and_say_whose(tmp_path: Path) -> None:
    anatomies = write_anatomies(tmp_path / "anatomies", "ircad07", "other")
    assert run(anatomies, tmp_path / "cases", "--variants", "2") == 0
    cases = sorted(path.name for path in (tmp_path / "cases").iterdir())
    assert cases == [f"{n}-synthetic{i}" for n in ("ircad07", "other") for i in (1, 2)]
    folder = tmp_path / "cases" / "ircad07-synthetic2"
    labels, grid = read_labels(folder / "label.nii.gz")
    assert np.array_equal(labels, liver_labels(torso(), SPACING_MM))
    volume = read_volume(folder / "ct.nii.gz")
    assert volume.geometry == grid
    assert np.median(volume.hu[torso() == Tissue.AIR]) == pytest.approx(-1000, abs=60)
    facts = json.loads((folder / "case.json").read_text())
    assert (facts["patient"], facts["synthetic"]) == ("ircad07", True)


def test_a_seed_says_it_all(tmp_path: Path) -> None:
    anatomies = write_anatomies(tmp_path / "anatomies", "a")
    for name, options in (("one", ()), ("two", ("--workers", "2")), ("other", ("--seed", "1"))):
        assert run(anatomies, tmp_path / name, *options) == 0
    one, two, other = (
        (tmp_path / name / "a-synthetic1" / "ct.nii.gz").read_bytes()
        for name in ("one", "two", "other")
    )
    assert one == two != other


def test_variants_differ(tmp_path: Path) -> None:
    anatomies = write_anatomies(tmp_path / "anatomies", "a")
    assert run(anatomies, tmp_path / "cases", "--variants", "2") == 0
    first, second = (
        read_volume(tmp_path / "cases" / f"a-synthetic{i}" / "ct.nii.gz") for i in (1, 2)
    )
    deep = ndimage.binary_erosion(torso() == Tissue.LIVER, iterations=2)
    assert abs(np.median(first.hu[deep]) - np.median(second.hu[deep])) > 2


def test_what_is_there_stays_unless_made_otherwise(tmp_path: Path) -> None:
    anatomies, ct = write_anatomies(tmp_path / "anatomies", "a"), "a-synthetic1/ct.nii.gz"
    assert run(anatomies, tmp_path / "cases") == 0
    first = (tmp_path / "cases" / ct).stat().st_mtime_ns
    with mock.patch.object(synthesize, "read_anatomy", side_effect=AssertionError):
        assert run(anatomies, tmp_path / "cases") == 0
    assert (tmp_path / "cases" / ct).stat().st_mtime_ns == first
    assert run(anatomies, tmp_path / "cases", "--seed", "3") == 0
    assert (tmp_path / "cases" / ct).stat().st_mtime_ns != first


def test_prepared_with_real_cases_they_only_train(tmp_path: Path) -> None:
    """The real CT of the same patient, when held out, takes the synthetic one out of training."""
    anatomies = write_anatomies(tmp_path / "anatomies", "ircad07", "ircad08")
    assert run(anatomies, tmp_path / "synthetic") == 0
    for number, name in enumerate(("ircad07", "lits003")):
        write_case(tmp_path / "real" / name, *phantom(number))
    with mock.patch.object(prepare_case, "render_preview", return_value=Image.new("RGB", (8, 8))):
        arguments = ["real", "synthetic", "-o", "prepared", "--workers", "1"]
        paths = [str(tmp_path / a) if a[0] not in "-1" else a for a in arguments]
        assert prepare.main(paths) == 0
    cases = {case.name: case for case in read_data_set(tmp_path / "prepared").cases}
    assert {n: (c.patient, c.synthetic) for n, c in cases.items()} == {
        "ircad07": ("ircadb-07", False),
        "lits003": ("lits003", False),
        "ircad07-synthetic1": ("ircadb-07", True),
        "ircad08-synthetic1": ("ircadb-08", True),
    }
    first = fold_division(tuple(cases.values()), "1/2")
    assert [case.name for case in first.held_out] == ["ircad07"]
    assert {case.name for case in first.training} == {"lits003", "ircad08-synthetic1"}


FAULTS = {
    "no maps": (lambda f: (f / "a_labelmap.nii.gz").unlink(), "found no label map"),
    "no names": (lambda f: (f / "labels.json").unlink(), r"labels.json: expected \{\"names\""),
    "an unknown name": (
        lambda f: (f / "labels.json").write_text('{"names": ["background", "brain"]}'),
        r"labels.json: .*found: 'brain'",
    ),
    "a value without a name": (
        lambda f: (f / "labels.json").write_text('{"names": ["background", "liver"]}'),
        r"a_labelmap.nii.gz: expected values 0 to 1, .* found 0 to ",
    ),
    "no liver": (
        lambda f: (f / "labels.json").write_text(json.dumps({"names": ["body"] * 30})),
        "a_labelmap.nii.gz: expected a drawn liver",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_anatomies_that_cannot_be_used_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    spoil, message = FAULTS[fault]
    anatomies = write_anatomies(tmp_path / "anatomies", "a")
    spoil(anatomies)
    assert run(anatomies, tmp_path / "cases") == 2
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(capsys.readouterr().err)
    assert not (tmp_path / "cases").exists()


@pytest.mark.parametrize("options", ["--variants 0", "--spacing-mm 0", "--workers 0", "--seed -1"])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, options: str) -> None:
    anatomies = write_anatomies(tmp_path / "anatomies", "a")
    assert run(anatomies, tmp_path / "cases", *options.split()) == 2
