"""report.html in a real browser: nothing overflows, every picture is there, nothing complains.

Chromium is no dependency of the tests: where it is not installed they are skipped. A page with
every fault shows that the faults would be seen.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from LiverTumorSegLib.report import PAGE, Run
from Testing.engine.report_case import GEOMETRY, HOSTILE, MODELS, labels_with, write_case

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

WIDTHS = (752, 800, 1400)  # in the first a text is as wide as between the margins of A4
HARNESS = """<!DOCTYPE html><body><script>
const told = [];
async function look(name, width) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = name;
  const loaded = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await loaded;
  const page = frame.contentDocument, root = page.documentElement;
  const decoded = await Promise.all([...page.images].map(
    image => createImageBitmap(image).then(bitmap => bitmap.width, () => 0)));
  const over = [root, ...page.querySelectorAll(".wide")].map(e => e.scrollWidth - e.clientWidth);
  told.push({name, width, over: Math.max(...over), decoded,
    hit: frame.contentWindow.hit ?? null});
}
(async () => {
  for (const name of NAMES) for (const width of WIDTHS) await look(name, width);
  document.body.textContent = JSON.stringify(told);
})();
</script></body>"""
FAULTY = """<!DOCTYPE html><html lang="en"><body><div style="width: 1000px">x</div>
<img alt="x" src="data:image/jpeg;base64,AAAA"><script>hit = 1; console.error("it hurts")</script>
</body></html>"""


def looked_at(folder: Path, names: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What is seen of pages in a folder at each of WIDTHS, and what the console says."""
    page = HARNESS.replace("NAMES", json.dumps(names)).replace("WIDTHS", json.dumps(WIDTHS))
    (folder / "harness.html").write_text(page)
    run = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions"),
            *(f"--user-data-dir={folder / 'browser'}", "--allow-file-access-from-files"),
            *("--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"),
            (folder / "harness.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (body,) = re.findall(r"<body>(\[.*\])</body>", run.stdout) or [run.stdout + run.stderr]
    return json.loads(html.unescape(body)), re.findall(r":CONSOLE.*", run.stderr)


def test_pages_fit_their_window_and_show_all_pictures(tmp_path: Path) -> None:
    run = Run(HOSTILE + "long" * 60, MODELS, "cpu", HOSTILE)
    hostile = {"warnings": (HOSTILE * 9,), "probability": True, "couinaud": True}
    write_case(tmp_path / "many", labels_with(22), run, **hostile)
    none = Run("ct.nii.gz", {}, None, "mask.nii.gz")
    write_case(tmp_path / "none", np.zeros(GEOMETRY.shape, np.uint8), none)
    seen, complaints = looked_at(tmp_path, [f"many/{PAGE}", f"none/{PAGE}"])
    assert complaints == []
    assert [(page["name"][:4], page["width"]) for page in seen] == [
        (name, width) for name in ("many", "none") for width in WIDTHS
    ]
    for page in seen:
        assert page["over"] == 0, page
        assert page["hit"] is None
        assert page["decoded"] == [340] * (28 if page["name"].startswith("many") else 8)


def test_faults_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "faulty.html").write_text(FAULTY)
    seen, complaints = looked_at(tmp_path, ["faulty.html"])
    assert [page["over"] > 0 for page in seen] == [True, True, False]
    assert [(page["decoded"], page["hit"]) for page in seen] == [([0], 1)] * 3
    assert len(complaints) == 3
    assert all("it hurts" in line for line in complaints)
