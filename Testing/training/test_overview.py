"""The page of a data set: sound HTML, every case and warning on it, its pictures found."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from LiverTumorSegLib.geometry import Geometry
from Testing.phantom import make_data_set
from Training.case_store import Record
from Training.dataset import Case, Origin
from Training.fingerprint import Fingerprint, HuCounts, LesionSize
from Training.overview import BINS, histogram, overview_html

CASE = Case("a", "p", False, Geometry((40, 50, 60), (2.5, 0.7, 0.7)), True, 1500.0, 30.0, 2, "")
ORIGIN = Origin("LiTS", ("volume-0.nii",), "", ("mended <b>",), ("look & see",))
FINGERPRINT = Fingerprint(
    HuCounts(100, (1, 2, 1)), HuCounts(50, (4,)), (LesionSize(29.0, 41.4), LesionSize(1.0, 12.0))
)
RECORD = Record("", CASE, ORIGIN, FINGERPRINT)
TUMOR_FREE = Record(
    "",
    replace(CASE, name="b #1", patient="b #1", tumor_ml=0.0, lesions=0),
    replace(ORIGIN, repairs=(), warnings=()),
    replace(FINGERPRINT, tumor_hu=HuCounts(0, ()), lesions=()),
)


class Page(HTMLParser):
    """Text, links and ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.attributes = "", []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def all(self, tag: str, key: str) -> list[str]:
        return [value for t, k, value in self.attributes if (t, k) == (tag, key)]


def test_every_number_of_a_case_is_there() -> None:
    text = Page(overview_html([RECORD, TUMOR_FREE], "my <data>")).text
    for part in (
        *("my <data>", "2 cases of 2 patients, 1 with tumor, 2 lesions, 1 cases with warnings"),
        *("patient p", "60 x 50 x 40", "0.7 x 0.7 x 2.5 mm", "1500 mL", "30.0 mL", "2.0 %"),
        *("2 lesions, to 41 mm", "liver 101 (100 to 102)", "tumor 50 (50 to 50)", "none"),
        *("mended <b>", "look & see", "volume-0.nii"),
    ):
        assert part in text, part
    assert text.count("patient p") == 1
    assert "patient b" not in text


def test_synthetic_cases_are_told() -> None:
    made = replace(RECORD, case=replace(CASE, name="m", synthetic=True))
    text = Page(overview_html([RECORD, made], "data")).text
    assert "2 cases of 1 patients, 1 synthetic, 2 with tumor" in text
    assert text.count("\nsynthetic\n") == 1


def test_a_warning_leads_to_its_case() -> None:
    page = Page(overview_html([TUMOR_FREE, RECORD], "data"))
    assert [link for link in page.all("a", "href") if link.startswith("#")] == ["#a"]
    assert "a" in page.all("tr", "id")
    assert "Look at these" not in Page(overview_html([TUMOR_FREE], "data")).text


def test_pictures_are_linked_and_nothing_is_fetched() -> None:
    html = overview_html([RECORD, TUMOR_FREE], "data")
    sources = Page(html).all("img", "src")
    assert [unquote(source) for source in sources] == ["pictures/a.png", "pictures/b #1.png"]
    assert "http" not in html
    assert "<script" not in html


def test_the_links_of_a_prepared_data_set_lead_to_files(tmp_path: Path) -> None:
    prepared = make_data_set(tmp_path, patients=3)
    sources = Page((prepared / "overview.html").read_text()).all("img", "src")
    assert len(sources) == 3
    assert all((prepared / unquote(source)).is_file() for source in sources)


@pytest.mark.parametrize("values", [[5.0], [1.0, 1.0, 9.0], list(np.linspace(0, 1, 50))])
def test_a_histogram_counts_every_value(values: list[float]) -> None:
    svg = histogram("x", "mm", values)
    drawing = ElementTree.fromstring(svg).find("svg")
    texts = [text.text for text in drawing.iter("text")]
    counts, edges = texts[:-2], texts[-2:]
    assert sum(int(count) for count in counts) == len(values)
    heights = [float(bar.get("height")) for bar in drawing.iter("rect")]
    assert len(heights) == len(counts) <= BINS
    tallest = max(int(count) for count in counts)
    assert heights == pytest.approx([70 * int(count) / tallest for count in counts], abs=0.05)
    low, high = np.histogram_bin_edges(values, BINS)[[0, -1]]
    assert edges == [f"{low:.4g}", f"{high:.4g} mm"]


def test_without_values_there_is_no_histogram() -> None:
    assert histogram("x", "mm", []) == ""
