"""report.html: its structure, its numbers, what it says of nothing, and that nothing gets in."""

from __future__ import annotations

import base64
import csv
import doctest
import io
import json
import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from LiverTumorSegLib import page
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.pictures import draw_pictures
from LiverTumorSegLib.report import DEFINITIONS, PAGE, REPORT, TABLE, Run, summary_of
from LiverTumorSegLib.tiles import TILE_SIZE
from LiverTumorSegLib.volume import Volume
from Testing.engine.report_case import GEOMETRY, HOSTILE, MODELS, labels_with, write_case

RUN = Run("ct.nii.gz", MODELS, "cpu", None)
VOID = {"meta", "img", "br"}


@dataclass
class Element:
    """A tag with its attributes, all text in it, and what it holds."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, *tags: str) -> list[Element]:
        """Elements within, in order."""
        found = [self] if self.tag in tags else []
        return found + [element for child in self.children for element in child.all(*tags)]

    def by_id(self, name: str) -> Element | None:
        """The element of an id."""
        if self.attributes.get("id") == name:
            return self
        return next((e for e in (child.by_id(name) for child in self.children) if e), None)


class Reader(HTMLParser):
    """The tree of a page; a tag that is closed in the wrong place fails."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def tree_of(text: str) -> Element:
    reader = Reader()
    reader.feed(text)
    reader.close()
    (root,) = reader.open
    return root


def read(folder: Path) -> tuple[Element, dict[str, Any]]:
    report = json.loads((folder / REPORT).read_text("utf-8"))
    return tree_of((folder / PAGE).read_text("utf-8")), report


def words(element: Element | None) -> str:
    assert element is not None
    return " ".join(element.text.split())


def cells(tree: Element, part: str) -> list[list[str]]:
    (body,) = tree.all(part)
    return [[words(cell) for cell in row.all("th", "td")] for row in body.all("tr")]


# Structure


def test_the_page_can_be_read_by_those_who_hear_it(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(5), RUN)
    tree, _ = read(tmp_path)
    (html,) = tree.all("html")
    assert html.attributes["lang"] == "en"
    assert [words(title) for title in tree.all("title")] == ["ct.nii.gz - LiverTumorSeg report"]
    assert [words(h1) for h1 in tree.all("h1")] == ["ct.nii.gz"]
    assert len(tree.all("main")) == 1
    texts = [image.attributes["alt"] for image in tree.all("img")]
    assert len(set(texts)) == 8 + 5
    assert min(map(len, texts)) > 20
    assert {cell.attributes["scope"] for cell in tree.all("thead")[0].all("th")} == {"col"}
    rows = [row.all("th", "td") for row in tree.all("tbody")[0].all("tr")]
    assert {row[0].attributes["scope"] for row in rows} == {"row"}
    lesions = next(table for table in tree.all("table") if table.all("thead"))
    assert words(tree.by_id(lesions.attributes["aria-labelledby"])) == "Tumors"
    ids = re.findall(r'\bid="(.+?)"', (tmp_path / PAGE).read_text())
    assert len(set(ids)) == len(ids)


def test_it_says_what_it_is_not_for(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(1), RUN)
    tree, _ = read(tmp_path)
    assert "Not for clinical use" in words(tree.all("header")[0])
    assert '@bottom-left { content: "Not for clinical use"' in words(tree.all("style")[0])


def test_pictures_are_whole_and_inside(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(3), RUN)
    tree, _ = read(tmp_path)
    for image in tree.all("img"):
        kind, data = image.attributes["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as decoded:
            decoded.load()
            assert decoded.size == TILE_SIZE
        assert (image.attributes["width"], image.attributes["height"]) == tuple(map(str, TILE_SIZE))


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(3), RUN)
    tree, _ = read(tmp_path)
    foreign = ("script", "link", "iframe", "object", "embed", "base", "form", "a", "video")
    assert tree.all(*foreign) == []
    text = (tmp_path / PAGE).read_text()
    assert re.findall(
        r"http\S*|url\(|@import|//\S*\.\S*", re.sub(r"base64,[\w+/=]+", "", text)
    ) == ['http-equiv="Content-Security-Policy"']
    policy = next(meta.attributes for meta in tree.all("meta") if "http-equiv" in meta.attributes)
    assert policy["content"].startswith("default-src 'none';")


# Numbers

# By column: the fields of report.json, and half of what the last digit shown stands for.
FIELDS = {
    "Tumor": (["lesion"], 0),
    "Volume mL": (["volume_ml"], 0.005),
    "Long × short axis mm": (["long_axis_mm", "short_axis_mm"], 0.05),
    "Feret mm": (["feret_mm"], 0.05),
    "Mean ± SD HU": (["mean_hu", "sd_hu"], 0.5),
    "Median HU": (["median_hu"], 0.5),
    "Probability 0 to 1": (["mean_probability"], 0.005),
    "Real 0 to 1": (["confidence"], 0.005),
    "To surface mm": (["surface_distance_mm"], 0.05),
    "Burden %": (["burden_percent"], 0.005),
}
ROUNDED = 0.0051  # what report.json itself may be off


def numbers(cell: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", cell)]


@pytest.mark.parametrize("maps", [False, True])
def test_the_table_has_the_reports_numbers(maps: bool, tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(9), RUN, probability=maps, couinaud=maps)
    tree, report = read(tmp_path)
    ((*head,),) = cells(tree, "thead")
    optional = {"Probability 0 to 1", "Real 0 to 1", "Couinaud"}
    assert set(head) == {*FIELDS, "± %", "Couinaud", "At the CT's edge"} - (
        {"Probability 0 to 1"} if maps else optional
    )
    rows = cells(tree, "tbody")
    assert len(rows) == len(report["lesions"]) == 9
    for row, lesion in zip(rows, report["lesions"], strict=True):
        cell = dict(zip(head, row, strict=True))
        for name in FIELDS.keys() & cell.keys():
            keys, half = FIELDS[name]
            wanted = [lesion[key] for key in keys]
            assert numbers(cell[name]) == pytest.approx(wanted, abs=half + ROUNDED), name
        assert cell["At the CT's edge"] == ("yes" if lesion["touches_edge"] else "no")
        assert cell.get("Couinaud") == lesion["couinaud"]
        told, percent = cell["± %"], lesion["volume_uncertainty_percent"]
        assert told == (f"{percent:.0f}" if percent >= 5 else "")
    ((*total,),) = cells(tree, "tfoot")
    sums = dict(zip(head, total, strict=True))
    assert numbers(sums["Volume mL"]) == pytest.approx([report["tumor_volume_ml"]], abs=0.006)
    assert numbers(sums["Burden %"]) == pytest.approx([report["tumor_burden_percent"]], abs=0.006)
    assert {lesion["touches_edge"] for lesion in report["lesions"]} == {True, False}


def test_small_lesions_have_their_uncertainty_and_large_ones_none(tmp_path: Path) -> None:
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[:, 4:56, 4:62] = 1
    labels[3:22, 6:54, 6:50] = 2
    labels[10:12, 20:23, 56:59] = 2
    write_case(tmp_path, labels, RUN)
    tree, report = read(tmp_path)
    small = report["lesions"][1]["volume_uncertainty_percent"]
    assert [row[2] for row in cells(tree, "tbody")] == ["", f"{small:.0f}"]


def test_columns_of_numbers_are_flush_right(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(2), RUN, couinaud=True)
    tree, _ = read(tmp_path)
    for row in tree.all("table")[0].all("tr"):
        right = [cell.attributes.get("class") == "number" for cell in row.all("th", "td")]
        assert right == [True] * (len(right) - 2) + [False] * 2


def test_each_picture_of_a_lesion_has_its_numbers(tmp_path: Path) -> None:
    found = write_case(tmp_path, labels_with(4), RUN, couinaud=True)
    tree, _ = read(tmp_path)
    closeups = tree.by_id("closeups")
    assert closeups is not None
    for figure, lesion in zip(closeups.all("figure"), found.lesions, strict=True):
        text, image = words(figure), figure.all("img")[0]
        assert text.startswith(
            f"Tumor {lesion.lesion}, {lesion.long_axis_mm:.1f} × {lesion.short_axis_mm:.1f} mm "
            f"{lesion.volume_ml:.2f} mL, {lesion.mean_hu:.0f} ± {lesion.sd_hu:.0f} HU slice "
        )
        assert text.endswith(lesion.couinaud)
        place = re.search(r"slice (\d+), z (\S+) mm", text)
        assert float(place[2]) == pytest.approx(lesion.long_axis_ends_mm[0][2], abs=0.051)
        assert f"tumor {lesion.lesion} " in image.attributes["alt"]
        assert place[0] in image.attributes["alt"]


def test_the_method_names_models_definitions_and_times(tmp_path: Path) -> None:
    by = {"liver": "OpenVINO f32", "tumor": "PyTorch f32"}
    write_case(tmp_path, labels_with(1), RUN, computed_by=by, timings_s={"liver": 1.5})
    tree, report = read(tmp_path)
    method = words(tree.by_id("method"))
    for target in ("liver", "tumor"):
        assert (
            f"some-{target} (sha256 0123456789ab…), trained on 7 cases, mean Dice 0.874" in method
        )
    assert method.count("License: CC BY 4.0") == 2
    assert "liver OpenVINO f32, tumor PyTorch f32, on cpu" in method
    assert "liver 1.50, write labels" in method
    assert f"LiverTumorSeg {report['version']}" in method
    definitions = words(tree.by_id("definitions"))
    assert all(f"{name} {text}" in definitions for name, text in DEFINITIONS.items())
    assert "write_page" in report["timings_s"]


def test_a_model_without_a_card_is_named_and_no_more(tmp_path: Path) -> None:
    bare = {"name": "mine", "sha256": "f" * 64}
    unknown = dict.fromkeys(("license", "training_cases", "mean_dice"))
    write_case(tmp_path, labels_with(1), Run("ct", {"liver": {**bare, **unknown}}, "cpu", None))
    tree, _ = read(tmp_path)
    assert "mine (sha256 ffffffffffff…). Computed" in words(tree.by_id("method"))


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [("mask.seg.nrrd", "as marked in mask.seg.nrrd; no network ran"), (None, "3D Slicer")],
)
def test_where_no_network_ran_it_is_told(
    segmentation: str | None, expected: str, tmp_path: Path
) -> None:
    write_case(tmp_path, labels_with(1), Run("ct", {}, None, segmentation))
    tree, _ = read(tmp_path)
    assert expected in words(tree.by_id("method"))
    marked = segmentation is not None and f"Marked in {segmentation}" in words(tree.all("body")[0])
    assert marked == (segmentation is not None)


# What is found


def test_nothing_found_is_said_in_words(tmp_path: Path) -> None:
    for value, said in ((0, "Liver No liver found"), (1, "Tumors No tumor found")):
        labels = np.full(GEOMETRY.shape, value, np.uint8)
        found = write_case(tmp_path / str(value), labels, RUN)
        tree, report = read(tmp_path / str(value))
        summary = words(tree.by_id("summary"))
        assert said in summary
        assert f"{said.split(' ', 1)[1]}." in summary_of(found)
        assert (f"{report['liver']['volume_ml']:.1f} mL" in summary) == bool(value)
        assert tree.all("thead", "tbody", "tfoot") == []
        assert tree.by_id("closeups") is None
        assert len(tree.all("img")) == 8
        assert "nan" not in summary.lower()
        assert "None" not in (tmp_path / str(value) / PAGE).read_text()


def test_the_summary_has_the_reports_numbers(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(4), RUN)
    tree, report = read(tmp_path)
    assert words(tree.by_id("summary")) == (
        f"Liver with its tumors {report['liver']['volume_ml']:.1f} mL "
        f"Liver without them {report['liver']['mean_hu']:.0f} ± {report['liver']['sd_hu']:.0f} HU "
        f"Tumors 4 All tumors {report['tumor_volume_ml']:.2f} mL "
        f"Burden {report['tumor_burden_percent']:.2f} %"
    )
    assert "24 axial slices 5 mm apart, 66 × 60 pixels of 1.25 × 1.5 mm" in words(tree)


def test_warnings_and_repairs_are_told(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(1), RUN, warnings=("It is cut.",), repairs=("2 voxels",))
    tree, _ = read(tmp_path)
    told = "Warning: It is cut. Repaired while reading: 2 voxels"
    assert words(tree.by_id("notes")) == told
    write_case(tmp_path, labels_with(1), RUN)
    tree, _ = read(tmp_path)
    assert words(tree.by_id("notes")).startswith("No warnings")


def test_of_many_lesions_the_largest_are_drawn_and_the_rest_is_counted(tmp_path: Path) -> None:
    found = write_case(tmp_path, labels_with(36), RUN)
    tree, _ = read(tmp_path)
    assert len(found.lesions) == 36
    assert len(cells(tree, "tbody")) == 36
    closeups = tree.by_id("closeups")
    assert len(closeups.all("figure")) == page.CLOSEUPS == 20
    assert "The 20 largest tumors" in words(tree)
    assert "16 smaller ones are not shown" in words(tree)
    assert (tmp_path / PAGE).stat().st_size < 3e6  # of pure noise, which compresses worst


def test_the_largest_are_taken_however_they_are_numbered() -> None:
    labels = labels_with(12)
    volume = Volume(np.zeros(labels.shape, np.float32), GEOMETRY)
    measurement, lesion_map = measure(volume, labels)
    drawn = draw_pictures(volume, labels, lesion_map, measurement.lesions[::-1], 2).closeups
    volumes = sorted(lesion.volume_ml for lesion in measurement.lesions)
    assert volumes[-3] < volumes[-2]
    assert [closeup.lesion.volume_ml for closeup in drawn] == volumes[:-3:-1]


# Names that mean harm


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    models = {"liver": {**MODELS["liver"], "name": HOSTILE, "license": HOSTILE, "sha256": HOSTILE}}
    run = Run(HOSTILE, models, HOSTILE, HOSTILE)
    labels = labels_with(2)
    write_case(tmp_path / "plain", labels, RUN, warnings=("w",), repairs=("r",))
    write_case(tmp_path / "hostile", labels, run, warnings=(HOSTILE,), repairs=(HOSTILE,))
    plain, _ = read(tmp_path / "plain")
    tree, _ = read(tmp_path / "hostile")
    for tags in (("script",), ("img",), ("b",), ("style",), ("head",)):
        assert len(tree.all(*tags)) == len(plain.all(*tags))
    assert not any("onerror" in image.attributes for image in tree.all("img"))
    (title,), (h1,) = tree.all("title"), tree.all("h1")
    assert title.text == f"{HOSTILE} - LiverTumorSeg report"
    assert h1.text == HOSTILE
    assert words(tree).count(HOSTILE) == 9


def test_a_name_of_bytes_that_are_no_letters_can_be_written(tmp_path: Path) -> None:
    write_case(tmp_path, labels_with(0), Run(os.fsdecode(b"ct\xff.nii"), MODELS, "cpu", None))
    tree, report = read(tmp_path)
    assert [h1.text for h1 in tree.all("h1")] == ["ct\ufffd.nii"]
    assert os.fsencode(report["input"]) == b"ct\xff.nii"


# What tables of others read


def test_the_csv_is_tidy(tmp_path: Path) -> None:
    """One row a lesion, one number a cell, and each name tells its unit."""
    write_case(tmp_path, labels_with(9), RUN, probability=True)
    rows = list(csv.DictReader((tmp_path / TABLE).read_text().splitlines()))
    assert len(rows) == 9
    units = ("_ml", "_mm", "_mm2", "_hu", "_percent")
    plain = {"lesion", "mean_probability", "confidence", "touches_edge", "sphericity", "couinaud"}
    assert all(name in plain or name.endswith(units) for name in rows[0])
    for row in rows:
        assert row.pop("couinaud") == ""
        assert all(np.isfinite(float(text)) for text in row.values())


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(page)
    assert result.attempted > 0
    assert result.failed == 0
