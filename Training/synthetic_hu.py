"""HU for a body of tissues: contrast phases, textures, and what a scanner makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from Training.anatomy import Tissue
from Training.random_fields import smooth_field

AIR_HU, FOAM_HU, LOWEST_HU, HIGHEST_HU = -1000.0, -940.0, -1024.0, 3000.0
PHASES = ("none", "arterial", "portal", "late")
# Two thirds of all labeled CTs are of the portal venous phase.
PHASE_SHARES = (0.15, 0.2, 0.5, 0.15)


@dataclass(frozen=True)
class Look:
    """How a tissue shows.

    Attributes:
        native: mean HU without contrast medium.
        enhancement: HU that contrast medium adds, in the order of PHASES without "none".
        patients_sd: SD of the mean between patients.
        texture_sd: SD inside one patient, of what is no noise.
    """

    native: float
    enhancement: tuple[float, float, float]
    patients_sd: float
    texture_sd: float


UNENHANCED = (0.0, 0.0, 0.0)
# Measured in portal venous CTs of four patients of 3D-IRCADb-01 (1, 2, 7, 19), two voxels inside
# each drawn structure: mean of the patients' means, and their SD. Liver 117 (17), portal vein 185
# (44), hepatic veins and vena cava 153 (31), arteries 184 (11, two patients), kidney 187 (24, two),
# spleen 120 (2, two), gallbladder 32, liver tumor 69 (16, three), mass outside the liver 37, bone
# 438 (72; within 240), lung -835; outside of drawn structures fat peaks at -95 to -115 and muscle
# at 55 to 65. On voxels of 2 mm the liver has an SD of 8 to 12, of which 4 to 7 remain when
# smoothed by 5 mm. Native, arterial and late values are not measured: they are the usual ones of
# textbooks.
LOOKS = {
    Tissue.AIR: Look(AIR_HU, UNENHANCED, 0, 0),
    Tissue.BONE: Look(420, UNENHANCED, 70, 150),
    Tissue.MARROW: Look(170, (10, 20, 20), 50, 40),
    Tissue.LUNG: Look(-850, UNENHANCED, 40, 60),
    Tissue.LIVER: Look(56, (15, 60, 42), 9, 5),
    Tissue.PORTAL_VEIN: Look(42, (45, 140, 80), 12, 4),
    Tissue.VEIN: Look(42, (20, 108, 80), 15, 6),
    Tissue.ARTERY: Look(42, (250, 140, 85), 15, 5),
    Tissue.KIDNEY: Look(33, (120, 150, 120), 18, 18),
    Tissue.SPLEEN: Look(48, (70, 72, 45), 8, 5),
    Tissue.GALLBLADDER: Look(18, UNENHANCED, 12, 4),
    Tissue.STOMACH: Look(42, (30, 42, 30), 10, 10),
    Tissue.PANCREAS: Look(38, (60, 55, 35), 10, 10),
    Tissue.ADRENAL: Look(30, (45, 52, 35), 10, 5),
    Tissue.BILE_DUCT: Look(12, UNENHANCED, 8, 4),
    Tissue.TUMOR: Look(40, (15, 30, 28), 15, 10),
    Tissue.CYST: Look(8, UNENHANCED, 5, 3),
    Tissue.MASS: Look(35, (12, 20, 22), 25, 12),
    Tissue.METAL: Look(1200, UNENHANCED, 400, 100),
    Tissue.OTHER: Look(25, (5, 15, 15), 15, 8),
    Tissue.SKIN: Look(20, (5, 15, 15), 15, 10),
    Tissue.FAT: Look(-104, UNENHANCED, 7, 7),
    Tissue.MUSCLE: Look(52, (3, 8, 10), 7, 8),
    Tissue.HEART: Look(42, (180, 100, 65), 15, 20),
    Tissue.GUT: Look(40, (30, 45, 30), 12, 12),
    Tissue.GUT_FLUID: Look(18, UNENHANCED, 14, 12),
    Tissue.GUT_CONTRAST: Look(250, UNENHANCED, 90, 40),
    Tissue.GAS: Look(-950, UNENHANCED, 20, 10),
}
DENSE_MM = 80.0  # how far around noise depends on what there is
FATTY_SHARE, HYPERVASCULAR_SHARE = 0.12, 0.35


@dataclass(frozen=True)
class Scanner:
    """How a CT was taken.

    Attributes:
        blur_mm: SD of the blur along (z, y, x); along z it stands for the slices' thickness.
        noise_hu: SD of the noise.
        grain_mm: SD of the Gaussian that makes neighbors' noise alike, along (z, y, x).
        couch: whether it is in the picture.
    """

    blur_mm: tuple[float, float, float]
    noise_hu: float
    grain_mm: tuple[float, float, float]
    couch: bool


def draw_phase(random: np.random.Generator) -> str:
    """One of PHASES."""
    return str(random.choice(PHASES, p=PHASE_SHARES))


def draw_means(phase: str, random: np.random.Generator) -> dict[Tissue, float]:
    """Mean HU of each tissue of one patient in a phase.

    Contrast medium of one strength reaches all tissues. Some livers are fatty, and some tumors are
    brighter than the liver in the arterial phase.
    """
    strength = max(random.normal(1.0, 0.2), 0.4)
    means = {}
    for tissue, look in LOOKS.items():
        added = dict(zip(PHASES, (0.0, *look.enhancement), strict=True))[phase]
        means[tissue] = look.native + strength * added + random.normal(0, look.patients_sd)
    if random.random() < FATTY_SHARE:
        means[Tissue.LIVER] -= random.uniform(15, 50)
    if phase == "arterial" and random.random() < HYPERVASCULAR_SHARE:
        means[Tissue.TUMOR] = means[Tissue.LIVER] + random.uniform(15, 60)
    return means


def draw_scanner(random: np.random.Generator) -> Scanner:
    """A scanner and its reconstruction."""
    in_plane = random.uniform(0.6, 1.3)
    grain = random.uniform(0.5, 1.4)
    return Scanner(
        blur_mm=(random.uniform(0.4, 2.2), in_plane, in_plane),
        noise_hu=float(np.exp(random.uniform(np.log(6), np.log(20)))),
        grain_mm=(random.uniform(0.3, 1.0), grain, grain),
        couch=bool(random.random() < 0.8),
    )


def paint(
    tissues: np.ndarray,
    means: dict[Tissue, float],
    spacing_mm: Sequence[float],
    random: np.random.Generator,
) -> np.ndarray:
    """HU without blur and noise: each tissue's mean and its texture of several sizes.

    Args:
        tissues: uint8 (z, y, x), none of them BODY.
        means: HU of each tissue.
        spacing_mm: of the voxels.
        random: where chance comes from.

    Returns:
        float32.
    """
    mean, sd = np.zeros(256, np.float32), np.zeros(256, np.float32)
    for tissue, look in LOOKS.items():
        mean[tissue], sd[tissue] = means[tissue], look.texture_sd
    texture = sum(
        weight * smooth_field(tissues.shape, spacing_mm, length_mm, random)
        for length_mm, weight in ((1.5, 0.6), (5.0, 0.5), (20.0, 0.6))
    )
    return mean[tissues] + sd[tissues] * texture * random.uniform(0.6, 1.5)


def add_couch(
    hu: np.ndarray, body: np.ndarray, spacing_mm: Sequence[float], random: np.random.Generator
) -> None:
    """Draw a couch under the body, in air alone: a thin bent shell over foam."""
    _, dy, dx = spacing_mm
    rows, columns = np.flatnonzero(body.any(axis=(0, 2))), np.flatnonzero(body.any(axis=(0, 1)))
    x = (np.arange(hu.shape[2]) - columns.mean()) * dx
    y = (np.arange(hu.shape[1]) - rows[-1])[:, None] * dy
    half = random.uniform(180, 260)
    sag = random.uniform(0, 45) * (1 - (x / half) ** 2)
    under = y - random.uniform(2, 25) + random.uniform(0, 30) - sag
    wide = abs(x) < half
    shell = (under >= 0) & (under < max(random.uniform(2, 5), dy)) & wide
    foam = (under >= 0) & (under < random.uniform(15, 60)) & wide
    np.copyto(hu, FOAM_HU, where=foam & ~body)
    np.copyto(hu, random.uniform(-200, 200), where=shell & ~body)


def scan(
    hu: np.ndarray, spacing_mm: Sequence[float], scanner: Scanner, random: np.random.Generator
) -> np.ndarray:
    """What a scanner shows of a body: blurred, so that boundaries are partial volume, and noisy.

    Noise is stronger inside the body, where fewer photons come from.

    Returns:
        int16 (z, y, x).
    """
    blurred = ndimage.gaussian_filter(hu, np.array(scanner.blur_mm) / spacing_mm)
    noise = random.standard_normal(hu.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, np.array(scanner.grain_mm) / spacing_mm)
    around = np.rint(DENSE_MM / np.array(spacing_mm)).astype(int)
    dense = ndimage.uniform_filter((hu > -500).astype(np.float32), around)
    blurred += noise * (scanner.noise_hu / noise.std()) * (0.5 + 0.5 * dense)
    return np.rint(np.clip(blurred, LOWEST_HU, HIGHEST_HU)).astype(np.int16)
