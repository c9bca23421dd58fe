"""The list of recipes: README's table is true, and its costs are those counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from LiverTumorSegLib.recipes import PAPERS, RECIPES
from Training.catalog import (
    BEGIN,
    END,
    cost,
    listing,
    main,
    reference_grid,
    table,
    variant,
    window_gflop,
)
from Training.marked_section import around_marks

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.mark.slow
def test_the_table_of_the_readme_is_what_the_recipes_say() -> None:
    text = README.read_text()
    before, after = around_marks(text, BEGIN, END)
    assert f"{before}\n{table()}\n{after}" == text, (
        "run python -m Training.catalog --write README.md"
    )


def test_a_convolution_costs_two_operations_a_weight_and_voxel() -> None:
    conv = torch.nn.Conv3d(1, 4, 3, padding=1, device="meta")
    conv.dimensions = 3
    assert window_gflop(conv, (8, 8, 8)) == pytest.approx(2 * 27 * 4 * 8**3 / 1e9)


@pytest.mark.parametrize(
    ("name", "grid", "windows", "gflop"),
    [
        ("unet3d-liver", (80, 160, 160), 1, 875),
        # 200 slices, three by three windows of 256 with half overlap; nets2d.md, section 6.
        ("rmau-net", (200, 512, 512), 1800, 112.3),
        ("rmau-net-half", (200, 256, 256), 200, 112.3),
        ("msa-unet", (200, 512, 512), 200, 75.4),
        # 400 mm at 2.47 mm and 384 mm at 1.9 mm: 162 and 202 voxels, two and three windows.
        ("dpc-net", (162, 202, 202), 2 * 3 * 3, 977),
    ],
)
def test_the_cost_is_that_of_all_windows(
    name: str, grid: tuple[int, int, int], windows: int, gflop: float
) -> None:
    recipe = RECIPES[name]
    assert reference_grid(recipe) == grid
    assert cost(recipe)[1] == pytest.approx(windows * gflop, rel=1e-2)


def test_variants_of_a_paper_are_told_apart() -> None:
    for paper in PAPERS:
        told = [(recipe.target, variant(recipe)) for recipe in paper.RECIPES]
        assert len(set(told)) == len(told)
        assert all(words for _, words in told)


def test_the_list_shows_every_recipe_and_what_was_reported() -> None:
    text = listing()
    assert all(f"  {name} " in text for name in RECIPES)
    assert "liver Dice 0.9552" in text
    assert "LiTS 0-26" in text


def test_the_table_stands_between_the_marks(tmp_path: Path) -> None:
    assert around_marks(f"a{BEGIN}old{END}b", BEGIN, END) == (f"a{BEGIN}", f"{END}b")
    page = tmp_path / "page.md"
    page.write_text(f"{END} before {BEGIN}")
    assert main(["--write", str(page)]) == 2
    assert page.read_text() == f"{END} before {BEGIN}"
