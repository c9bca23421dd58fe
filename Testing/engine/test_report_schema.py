"""The published schema: it describes every field of report.json and refuses anything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from LiverTumorSegLib.measure import Lesion
from LiverTumorSegLib.report import DEFINITIONS, REPORT, SCHEMA, Run
from Testing import report_schema
from Testing.engine.report_case import MODELS, labels_with, write_case
from Testing.report_schema import VALIDATOR

PUBLISHED = report_schema.SCHEMA
LESION = PUBLISHED["$defs"]["lesion"]["properties"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report with every part."""
    folder = tmp_path_factory.mktemp("report")
    run = Run("ct.nii.gz", MODELS, "cpu", None)
    told = {"computed_by": {"liver": "PyTorch f32"}, "warnings": ("w",), "repairs": ("r",)}
    write_case(folder, labels_with(2), run, probability=True, couinaud=True, **told)
    return json.loads((folder / REPORT).read_text())


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of the objects in a report whose fields are named by the schema."""
    if isinstance(value, dict) and path[:1] not in [("timings_s",), ("definitions",)]:
        if path != ("computed_by",):
            yield path
        for key, item in value.items():
            yield from objects(item, (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from objects(item, (*path, index))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def test_the_schema_itself_is_sound(report: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(PUBLISHED)
    assert PUBLISHED["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert PUBLISHED["properties"]["schema"]["const"] == SCHEMA == report["schema"]
    VALIDATOR.validate(report)


def test_a_missing_and_an_unknown_field_are_refused_everywhere(report: dict[str, Any]) -> None:
    paths = list(objects(report))
    assert paths == [
        (),
        ("models",),
        ("models", "liver"),
        ("models", "tumor"),
        ("liver",),
        ("lesions", 0),
        ("lesions", 1),
    ]
    for path in paths:
        spoiled = copy.deepcopy(report)
        at(spoiled, path)["extra"] = 1
        assert not VALIDATOR.is_valid(spoiled), path
        for name in at(report, path):
            spoiled = copy.deepcopy(report)
            del at(spoiled, path)[name]
            assert VALIDATOR.is_valid(spoiled) == (path == ("models",)), (path, name)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("not_for_clinical_use",), False),
        (("spacing_zyx_mm",), [1.0, 1.0]),
        (("shape_zyx", 0), 1.5),
        (("liver", "volume_ml"), -1.0),
        (("lesions", 0, "volume_ml"), None),
        (("lesions", 0, "touches_edge"), 1),
        (("lesions", 0, "mean_probability"), 1.1),
        (("lesions", 0, "long_axis_ends_mm", 0), [1.0, 2.0]),
        (("lesions", 0, "lesion"), 0),
        (("timings_s", "read it"), 1.0),
        (("computed_by", "spleen"), "PyTorch f32"),
        (("warnings",), "none"),
    ],
)
def test_wrong_values_are_refused(
    report: dict[str, Any], path: tuple[Any, ...], value: Any
) -> None:
    spoiled = copy.deepcopy(report)
    at(spoiled, path[:-1])[path[-1]] = value
    assert not VALIDATOR.is_valid(spoiled)


def test_lesions_are_described_field_by_field_by_the_reports_definitions() -> None:
    assert list(LESION) == [field.name for field in fields(Lesion)]
    for name in LESION.keys() & DEFINITIONS.keys():
        assert LESION[name]["description"] == DEFINITIONS[name], name


def test_every_field_has_a_title_with_its_unit() -> None:
    units = {"_ml": "mL", "_mm": "mm", "_mm2": "mm2", "_hu": "HU", "_percent": "%"}
    named = {**PUBLISHED["properties"], **LESION, **PUBLISHED["$defs"]["model"]["properties"]}
    named |= PUBLISHED["properties"]["liver"]["properties"]
    assert "x" not in named
    for name, part in named.items():
        assert part["title"], name
        for ending, unit in units.items():
            if name.endswith(ending):
                assert part["title"].endswith(f", {unit}"), name


def test_tests_hold_their_reports_to_the_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_schema, "VALIDATOR", Draft202012Validator({"required": ["x"]}))
    with pytest.raises(Exception, match="'x' is a required property"):
        write_case(tmp_path, labels_with(1), Run("ct", MODELS, "cpu", None))
