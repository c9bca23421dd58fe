"""The recipes: each paper's numbers as values, one file a paper. Imports no torch."""

from __future__ import annotations

from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import compact, dpc, elanres_msca, msa, rmau, starter, unet3d
from LiverTumorSegLib.recipes.common import Reported

PAPERS = (elanres_msca, unet3d, rmau, msa, dpc, compact, starter)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for paper in PAPERS for recipe in paper.RECIPES}
REPORTED: dict[str, Reported] = {
    name: reported for paper in PAPERS for name, reported in paper.REPORTED.items()
}
