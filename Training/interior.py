"""What lies between the drawn organs: fat, muscle, lungs, heart, stomach, gut, made up by chance.

A label map says "body" of everything that nobody drew. Here every such voxel becomes a tissue, so
that the liver gets neighbors as in a CT. Landmarks are the spine, the ribs and the liver; the
diaphragm is the top of the liver, mirrored and lowered on the left. Nothing is taken from a CT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

from Training.anatomy import PARENCHYMA, Tissue
from Training.random_fields import ellipsoid, smooth_field

MARROW_MM2 = 2000.0  # more than a vertebra has in a slice
SPINE_MM = 30.0  # half the width of the part of the body that holds the vertebrae


@dataclass
class Scene:
    """A body that is being filled.

    Attributes:
        tissues: uint8 (z, y, x), values of `Tissue`; z grows to the head, y to the back, x to the
            left. Only voxels of BODY, and what a drawn stomach holds, are ever changed.
        spacing_mm: of its voxels.
        random: where chance comes from.
        spine_mm: (y, x) of the front of the vertebrae.
        depth_mm: float32, how deep under the skin each voxel lies.
        core_mm: float32, how deep inside ribs and abdominal wall, these included; 0 outside.
        cavity: bool, within the wall.
        diaphragm_mm: float32 (y, x), height z of the diaphragm.
    """

    tissues: np.ndarray
    spacing_mm: tuple[float, float, float]
    random: np.random.Generator
    spine_mm: tuple[float, float]
    depth_mm: np.ndarray
    core_mm: np.ndarray
    cavity: np.ndarray
    diaphragm_mm: np.ndarray

    def field(self, length_mm: float) -> np.ndarray:
        """A new `smooth_field` of the body's shape."""
        return smooth_field(self.tissues.shape, self.spacing_mm, length_mm, self.random)

    def between(self, low: float, high: float) -> float:
        """A random number."""
        return float(self.random.uniform(low, high))

    def fill(self, where: np.ndarray, tissue: Tissue) -> None:
        """Make undrawn voxels a tissue."""
        self.tissues[where & (self.tissues == Tissue.BODY)] = tissue

    def blob(
        self,
        center_mm: tuple[float, float, float],
        radii_mm: tuple[float, float, float],
        turn_deg: float = 0.0,
        roughness: float = 0.15,
    ) -> np.ndarray:
        """A bool ellipsoid of about this size and place, in the cavity."""
        center = [c + self.random.normal(0, 5) for c in center_mm]
        radii = [r * self.between(0.8, 1.25) for r in radii_mm]
        warp = roughness * self.field(25.0)
        turn = turn_deg + self.random.normal(0, 10)
        return self.cavity & ellipsoid(
            self.tissues.shape, self.spacing_mm, center, radii, warp, turn
        )

    def mm(self, axis: int) -> np.ndarray:
        """Place of each voxel along an axis, to be broadcast with (z, y, x)."""
        shape = [1, 1, 1]
        shape[axis] = -1
        return (np.arange(self.tissues.shape[axis]) * self.spacing_mm[axis]).reshape(shape)

    @property
    def chest(self) -> np.ndarray:
        """Bool: above the diaphragm."""
        return self.mm(0) > self.diaphragm_mm

    @property
    def liver_slices(self) -> np.ndarray:
        """Indices of the slices of the liver."""
        return np.flatnonzero(np.isin(self.tissues, PARENCHYMA).any(axis=(1, 2)))

    @property
    def dome_mm(self) -> float:
        """Height of the highest point of the liver."""
        return float(self.liver_slices[-1]) * self.spacing_mm[0]

    @property
    def left_mm(self) -> float:
        """Place x of the left end of the cavity, at the slices of the liver."""
        inside = self.cavity[self.liver_slices].any(axis=(0, 1))
        return float(np.flatnonzero(inside)[-1]) * self.spacing_mm[2]

    def lacks(self, tissue: Tissue) -> bool:
        """Whether nobody drew it."""
        return not (self.tissues == tissue).any()


def fill_interior(
    tissues: np.ndarray, spacing_mm: tuple[float, float, float], random: np.random.Generator
) -> np.ndarray:
    """A copy in which no voxel is BODY.

    Args:
        tissues: uint8 (z, y, x) as `Training.anatomy` gives it.
        spacing_mm: of its voxels.
        random: where chance comes from.
    """
    filled = tissues.copy()
    box = body_box(tissues)
    scene = explore(filled[box], spacing_mm, random)
    add_marrow(scene)
    add_back(scene)
    if scene.lacks(Tissue.LUNG):
        add_lungs(scene)
    else:
        add_heart(scene)
    add_vessels(scene)
    add_wall(scene)
    add_solid_organs(scene)
    add_stomach(scene)
    add_masses(scene)
    add_gut(scene)
    scene.fill(np.ones(scene.tissues.shape, bool), Tissue.FAT)
    return filled


# Landmarks


def body_box(tissues: np.ndarray) -> tuple[slice, slice, slice]:
    """All slices, and the rows and columns of the body with a voxel of air around."""
    rows, columns = (np.flatnonzero((tissues != Tissue.AIR).any(axis=a)) for a in ((0, 2), (0, 1)))
    return (
        slice(None),
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(columns[0] - 1, 0), columns[-1] + 2),
    )


def explore(
    tissues: np.ndarray, spacing_mm: tuple[float, float, float], random: np.random.Generator
) -> Scene:
    """Find the landmarks of a body."""
    body = filled_slices(tissues != Tissue.AIR)
    depth = ndimage.distance_transform_edt(body, spacing_mm).astype(np.float32)
    spine = spine_front(tissues, spacing_mm)
    core = core_of(tissues, depth, spacing_mm, random)
    wall_mm = random.uniform(8.0, 18.0) * (
        1 + 0.25 * smooth_field(tissues.shape, spacing_mm, 40.0, random)
    )
    inward = ndimage.distance_transform_edt(padded_ends(core), spacing_mm)[1:-1]
    return Scene(
        tissues,
        spacing_mm,
        random,
        spine,
        depth,
        inward,
        inward > wall_mm,
        diaphragm(tissues, spacing_mm, spine, random),
    )


def padded_ends(mask: np.ndarray) -> np.ndarray:
    """With its first and last slice twice, so that a body does not end at the CT's ends."""
    return np.pad(mask, ((1, 1), (0, 0), (0, 0)), mode="edge")


def filled_slices(mask: np.ndarray) -> np.ndarray:
    """Without holes in any slice."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])


def spine_front(tissues: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """(y, x) in mm of the front of the vertebrae: the column with most bone, behind the middle."""
    _, dy, dx = spacing_mm
    bone = tissues == Tissue.BONE
    body_y, body_x = (np.flatnonzero(tissues.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    middle_y, middle_x = body_y.mean(), body_x.mean()
    bone[:, : int(middle_y)] = False
    if not bone.any():
        return float(body_y[0] + 0.7 * np.ptp(body_y)) * dy, float(middle_x) * dx
    columns = ndimage.gaussian_filter1d(bone.sum(axis=(0, 1)).astype(float), 10 / dx)
    x = int(columns.argmax())
    half = int(SPINE_MM / dx)
    rows = bone[:, :, max(x - half, 0) : x + half].sum(axis=(0, 2))
    share = np.cumsum(rows) / max(rows.sum(), 1)
    return float(np.searchsorted(share, 0.03)) * dy, x * dx


def core_of(
    tissues: np.ndarray,
    depth_mm: np.ndarray,
    spacing_mm: tuple[float, float, float],
    random: np.random.Generator,
) -> np.ndarray:
    """Ribs, abdominal wall and all inside: hulls of what is drawn, and what is as deep as that."""
    drawn = (tissues != Tissue.AIR) & (tissues != Tissue.BODY)
    hull = np.stack([convex_hull_image(plane) if plane.sum() > 3 else plane for plane in drawn])
    hull = ndimage.gaussian_filter(hull.astype(np.float32), [8 / mm for mm in spacing_mm]) > 0.5
    bone = depth_mm[tissues == Tissue.BONE]
    skin_to_bone_mm = float(np.percentile(bone, 10)) if bone.size else 25.0
    fat_mm = min(skin_to_bone_mm, 45.0) * random.uniform(0.7, 1.1)
    fat_mm = fat_mm * (1 + 0.2 * smooth_field(tissues.shape, spacing_mm, 50.0, random))
    grown = ndimage.distance_transform_edt(~(hull | drawn), spacing_mm) < random.uniform(4, 10)
    return (depth_mm > 3.0) & (grown | (depth_mm > fat_mm))


def diaphragm(
    tissues: np.ndarray,
    spacing_mm: tuple[float, float, float],
    spine_mm: tuple[float, float],
    random: np.random.Generator,
) -> np.ndarray:
    """Height z in mm of the diaphragm at each (y, x); float32."""
    dz, dy, dx = spacing_mm
    liver = np.isin(tissues, PARENCHYMA)
    top = np.where(liver.any(0), (len(liver) - 1 - liver[::-1].argmax(0)) * dz, -np.inf)
    x = np.arange(top.shape[1])
    mirrored = np.rint(2 * spine_mm[1] / dx - x).astype(int)
    inside = (mirrored >= 0) & (mirrored < len(x))
    left = np.full_like(top, -np.inf)
    left[:, inside] = top[:, mirrored[inside]] - random.uniform(5.0, 25.0)
    known = np.maximum(top, left)
    far, nearest = ndimage.distance_transform_edt(
        ~np.isfinite(known), (dy, dx), return_indices=True
    )
    height = known[tuple(nearest)] - random.uniform(0.6, 1.2) * far
    smooth = ndimage.gaussian_filter(height, [5 / dy, 5 / dx])
    return np.maximum(smooth, np.where(np.isfinite(top), top, -np.inf)).astype(np.float32) + 3.0


# Chest


def heart_of(scene: Scene) -> np.ndarray:
    """A bool blob on the diaphragm, to the left of the middle."""
    y, x = scene.spine_mm
    center = (scene.dome_mm + scene.between(5, 25), y - 55, x + 20)
    heart = scene.blob(center, (45, 45, 58), turn_deg=-25, roughness=0.08)
    return heart & scene.chest


def add_heart(scene: Scene) -> None:
    """A heart between drawn lungs, which fills the room they leave but for a little fat."""
    y, _ = scene.spine_mm
    room = (scene.tissues == Tissue.BODY) & scene.cavity & scene.chest
    room &= (scene.mm(1) < y - 18) & (abs(scene.mm(0) - scene.dome_mm) < 60)
    inner = ndimage.distance_transform_edt(padded_ends(room), scene.spacing_mm)[1:-1]
    scene.fill(inner > scene.between(3, 8), Tissue.HEART)


def add_lungs(scene: Scene) -> None:
    """Two lungs in the chest, the mediastinum between them, and the heart in it."""
    y, x = scene.spine_mm
    half = scene.between(12, 22) * (1 + 0.4 * scene.field(25.0))
    mediastinum = (abs(scene.mm(2) - x) < half) & (scene.mm(1) < y + 15)
    heart = heart_of(scene)
    fat = ndimage.binary_dilation(heart, iterations=2)
    chest = scene.chest & (scene.core_mm > scene.between(7, 12)) & (scene.depth_mm > 12)
    scene.fill(heart, Tissue.HEART)
    scene.fill(chest & ~mediastinum & ~fat, Tissue.LUNG)
    thin = scene.chest & (scene.core_mm > 0) & (scene.mm(0) < scene.diaphragm_mm + 3)
    scene.fill(thin, Tissue.MUSCLE)


# Vessels, wall, organs


def add_vessels(scene: Scene) -> None:
    """An aorta in front of the spine, where no artery is drawn."""
    if not scene.lacks(Tissue.ARTERY):
        return
    y, x = scene.spine_mm
    radius = scene.between(8, 14)
    center = (0.0, y - radius - 2, x + scene.between(2, 14))
    warp = 0.1 * scene.field(40.0)
    tube = ellipsoid(scene.tissues.shape, scene.spacing_mm, center, (1e6, radius, radius), warp)
    scene.fill(tube, Tissue.ARTERY)


def add_marrow(scene: Scene) -> None:
    """Marrow inside of bones, and the spinal cord in its canal."""
    bone = scene.tissues == Tissue.BONE
    closed = ndimage.binary_closing(np.pad(bone, ((0, 0), (3, 3), (3, 3))), np.ones((1, 3, 3)), 2)
    holes = small_parts(filled_slices(closed)[:, 3:-3, 3:-3] & ~bone, scene.spacing_mm)
    scene.fill(holes & (scene.mm(1) > scene.spine_mm[0] + 32), Tissue.MUSCLE)
    scene.fill(holes, Tissue.MARROW)


def small_parts(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Without what is larger in a slice than a vertebra: the inside of a ring of ribs."""
    in_slices = np.zeros((3, 3, 3), bool)
    in_slices[1] = True
    parts, _ = ndimage.label(mask, in_slices)
    area_mm2 = np.bincount(parts.ravel()) * spacing_mm[1] * spacing_mm[2]
    return mask & (area_mm2 < MARROW_MM2)[parts]


def add_back(scene: Scene) -> None:
    """The muscles beside and behind the spine, in both flanks of it."""
    y, x = scene.spine_mm
    shape, spacing = scene.tissues.shape, scene.spacing_mm
    streaks = abs(scene.field(6.0)) < scene.between(0.03, 0.15)
    for side in (-1, 1):
        warp = 0.12 * scene.field(30.0)
        center = (0.0, y + scene.between(52, 62), x + side * scene.between(26, 34))
        back = ellipsoid(shape, spacing, center, (1e6, 22, 36), warp)
        scene.fill(back & ~streaks & (scene.depth_mm > 8), Tissue.MUSCLE)
        center = (0.0, y + scene.between(10, 20), x + side * scene.between(30, 40))
        psoas = ellipsoid(shape, spacing, center, (1e6, 20, 16), warp)
        scene.fill(psoas & ~scene.chest, Tissue.MUSCLE)


def add_wall(scene: Scene) -> None:
    """Skin, fat under it, and the muscles of chest and abdomen with thin fat between them."""
    scene.fill(scene.depth_mm < scene.between(1.5, 3.0), Tissue.SKIN)
    streaks = abs(scene.field(7.0)) < scene.between(0.0, 0.06)
    wall = (scene.core_mm > 0) & ~scene.cavity
    scene.fill(wall & ~streaks, Tissue.MUSCLE)
    scene.fill(wall | (scene.core_mm == 0), Tissue.FAT)


def add_solid_organs(scene: Scene) -> None:
    """Spleen, kidneys and pancreas, where nobody drew them."""
    y, x = scene.spine_mm
    dome = scene.dome_mm
    below = ~scene.chest
    left_mm = scene.left_mm
    if scene.lacks(Tissue.SPLEEN):
        center = (dome - scene.between(45, 75), y - 5, left_mm - scene.between(22, 38))
        spleen = scene.blob(center, (48, 45, 26), turn_deg=-25)
        scene.fill(spleen & below, Tissue.SPLEEN)
    if scene.lacks(Tissue.KIDNEY):
        for side, drop in ((-1, 115.0), (1, 105.0)):
            center = (dome - drop - scene.between(-10, 30), y + 8, x + side * 60)
            kidney = scene.blob(center, (50, 26, 26), turn_deg=30 * side, roughness=0.06)
            scene.fill(kidney & below, Tissue.KIDNEY)
    if scene.lacks(Tissue.PANCREAS):
        center = (dome - scene.between(90, 120), y - 38, x + 10)
        scene.fill(scene.blob(center, (12, 12, 55), roughness=0.3) & below, Tissue.PANCREAS)


def add_stomach(scene: Scene) -> None:
    """A stomach, and what is in a drawn one: gas in front, fluid or contrast behind."""
    y, x = scene.spine_mm
    if scene.lacks(Tissue.STOMACH):
        middle = (x + scene.left_mm) / 2
        center = (scene.dome_mm - scene.between(45, 75), y - scene.between(50, 80), middle)
        stomach = scene.blob(center, (45, 38, 36), turn_deg=20, roughness=0.2) & ~scene.chest
        scene.fill(stomach, Tissue.STOMACH)
    stomach = scene.tissues == Tissue.STOMACH
    if not stomach.any():
        return
    wall = ndimage.distance_transform_edt(stomach, scene.spacing_mm) < scene.between(3, 7)
    rows = np.flatnonzero(stomach.any(axis=(0, 2)))
    level = rows[0] + scene.between(-0.3, 0.6) * len(rows)
    gas = stomach & (scene.mm(1) < level * scene.spacing_mm[1])
    filling = Tissue.GUT_CONTRAST if scene.random.random() < 0.2 else Tissue.GUT_FLUID
    scene.tissues[stomach & ~wall] = filling
    scene.tissues[gas & ~wall] = Tissue.GAS


def add_masses(scene: Scene) -> None:
    """Now and then a large mass beside the liver that is none of it."""
    if scene.random.random() > 0.3:
        return
    rim = ndimage.binary_dilation(scene.tissues == Tissue.LIVER, iterations=6)
    places = np.argwhere(rim & scene.cavity & (scene.tissues == Tissue.BODY) & ~scene.chest)
    if len(places):
        place = places[scene.random.integers(len(places))] * scene.spacing_mm
        radius = scene.between(15, 50)
        center = tuple(float(v) for v in place)
        mass = scene.blob(center, (radius, radius, radius), roughness=0.15)
        scene.fill(mass & ~scene.chest, Tissue.MASS)


def add_gut(scene: Scene) -> None:
    """Loops of gut below the diaphragm, wall and filling by chance, in fat with small vessels."""
    loops = scene.field(scene.between(9, 14))
    share = scene.between(0.35, 0.7)
    free = scene.cavity & ~scene.chest & (scene.tissues == Tissue.BODY)
    if not free.any():
        return
    edge = np.quantile(loops[free][::7], 1 - share)
    gut = free & (loops > edge)
    lumen = gut & (loops > edge + scene.between(0.3, 0.6))
    kind = scene.field(30.0)
    rows = np.linspace(-0.5, 0.5, scene.tissues.shape[1], dtype=np.float32)[None, :, None]
    gas = lumen & (kind - 1.5 * rows > scene.between(0.9, 2.0))
    contrast = lumen & (kind < scene.between(-3.5, -0.8)) & ~gas
    fluid = lumen & (scene.field(40.0) > 0)
    vessels = free & ~gut & (abs(scene.field(7.0)) < 0.12) & (scene.field(8.0) > 0.4)
    for where, tissue in (
        (gas, Tissue.GAS),
        (contrast, Tissue.GUT_CONTRAST),
        (fluid, Tissue.GUT_FLUID),
        (gut, Tissue.GUT),
        (vessels, Tissue.VEIN),
    ):
        scene.fill(where, tissue)
