"""The published schema of report.json, and a fixture that holds every report of tests to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from LiverTumorSegLib import report

SCHEMA = json.loads(Path(report.__file__).with_name("report.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


@pytest.fixture(scope="session", autouse=True)
def reports_that_fit_the_schema() -> Iterator[None]:
    """A report that does not fit is an error where it is made."""
    made = report.report_of

    def checked(*arguments: Any) -> dict[str, Any]:
        content = made(*arguments)
        VALIDATOR.validate(json.loads(json.dumps(content)))
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "report_of", checked)
        yield
