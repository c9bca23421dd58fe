"""Check labeled CTs and bring them into the form that the trainer reads.

    python -m Training.prepare DATA -o PREPARED [--label-map 3=1,4=0]

DATA holds one folder a case, with `ct.*` and `label.*` in any format that the engine reads, also
compressed as .bz2. Labels are 0 background, 1 liver, 2 tumor after the mapping.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import masks_of
from LiverTumorSegLib.staging import staged
from LiverTumorSegLib.volume import read_labels, read_volume
from Training.dataset import Case, write_cases


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="folder with one folder a case")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--label-map", default="", help="other label values and what they become, as in 3=1,4=0"
    )
    arguments = parser.parse_args(argv)
    try:
        prepare_data_set(arguments.data, arguments.output, parse_label_map(arguments.label_map))
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def prepare_data_set(data: Path, output: Path, label_map: dict[int, int]) -> None:
    """Prepare every case below `data`; faults of all cases are reported together.

    All files appear in `output` at once, or none.

    Raises:
        InputError: no cases, faults in some, or an output folder that cannot be written to.
        ResourceError: the disk is full.
    """
    folders = find_cases(data)
    arrays = [f"{folder.name}_{what}.npy" for folder in folders for what in ("hu", "labels")]
    with staged(output, [*arrays, "dataset.json"]) as staging:
        cases, faults = [], []
        for folder in tqdm(folders, desc="prepare", unit="case"):
            try:
                cases.append(prepare_case(folder, staging, label_map))
            except InputError as error:
                faults.append(str(error))
        if faults:
            raise InputError("\n".join([f"{len(faults)} case(s) cannot be used:", *faults]))
        write_cases(staging, cases)
    print(f"{len(cases)} cases of {len({case.patient for case in cases})} patients in {output}")


def find_cases(data: Path) -> list[Path]:
    """Folders that hold a `ct.*` and a `label.*`; those without a label are named and left out.

    Raises:
        InputError: there are none.
    """
    if not data.is_dir():
        raise InputError(f"{data}: expected a folder with one folder a case; there is none.")
    folders = [folder for folder in sorted(data.iterdir()) if find_file(folder, "ct")]
    labeled = [folder for folder in folders if find_file(folder, "label")]
    if not labeled:
        raise InputError(
            f"{data}: expected folders that hold a ct.* and a label.*, such as case01/ct.nii.gz "
            "and case01/label.nii.gz; found none."
        )
    for folder in folders:
        if folder not in labeled:
            print(f"{folder.name}: no label.*, left out", file=sys.stderr)
    return labeled


def find_file(folder: Path, stem: str) -> Path | None:
    """The file named `stem` with any ending in a folder, if there is one."""
    return next(iter(sorted(folder.glob(f"{stem}.*"))), None) if folder.is_dir() else None


def prepare_case(folder: Path, output: Path, label_map: dict[int, int]) -> Case:
    """Read, check and store one case.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    ct_path, label_path = find_file(folder, "ct"), find_file(folder, "label")
    assert ct_path is not None
    assert label_path is not None
    volume = read_decompressed(ct_path, read_volume)
    raw_labels, geometry = read_decompressed(label_path, read_labels)
    check_same_grid(volume.geometry, geometry, label_path)
    labels = map_labels(raw_labels, label_map, label_path)
    hu = volume.hu
    if np.array_equal(hu, np.rint(hu)) and hu.max() <= np.iinfo(np.int16).max:
        hu = hu.astype(np.int16)
    np.save(output / f"{folder.name}_hu.npy", hu)
    np.save(output / f"{folder.name}_labels.npy", labels)
    masks, voxel_ml = masks_of(labels), geometry.voxel_ml
    return Case(
        name=folder.name,
        patient=folder.name,
        geometry=volume.geometry,
        liver_ml=float(masks["liver"].sum() * voxel_ml),
        tumor_ml=float(masks["tumor"].sum() * voxel_ml),
        lesions=lesion_components(masks["tumor"])[1],
        sha256=hashlib.sha256(hu.tobytes() + labels.tobytes()).hexdigest(),
    )


def read_decompressed(path: Path, read):  # type: ignore[no-untyped-def]
    """Call `read` on a file, through a decompressed copy if it is a .bz2.

    Raises:
        InputError: naming the file, not the copy.
    """
    if path.suffix != ".bz2":
        return read(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        try:
            with bz2.open(path) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError) as error:
            raise InputError(
                f"{path}: expected a whole .bz2 file, found one that cannot be decompressed "
                f"({error}). Copy it again."
            ) from error
        try:
            return read(plain)
        except InputError as error:
            raise InputError(str(error).replace(str(plain), str(path))) from error


def check_same_grid(ct: Geometry, label: Geometry, path: Path) -> None:
    """Refuse a label on another grid than its CT.

    Raises:
        InputError: naming what differs.
    """
    if ct.shape != label.shape:
        raise InputError(f"{path}: expected the CT's shape {ct.shape}, found {label.shape}.")
    if not np.allclose(ct.index_to_lps(), label.index_to_lps(), atol=1e-2):
        raise InputError(
            f"{path}: the label's position, spacing or orientation differs from the CT's; "
            "resample it to the CT's grid."
        )


def map_labels(labels: np.ndarray, label_map: dict[int, int], path: Path) -> np.ndarray:
    """Apply the mapping.

    Raises:
        InputError: a value other than 0, 1, 2 that the mapping does not cover, or no liver.
    """
    values = np.unique(labels)
    unknown = [int(v) for v in values if v not in (0, 1, 2) and int(v) not in label_map]
    if unknown:
        raise InputError(
            f"{path}: expected label values 0, 1 and 2, found {unknown} too; say what they mean, "
            f"as in --label-map {unknown[0]}=1."
        )
    mapped = np.zeros(labels.shape, dtype=np.uint8)
    for value in values:
        mapped[labels == value] = label_map.get(int(value), int(value))
    if not (mapped > 0).any():
        raise InputError(f"{path}: expected a labeled liver, found an empty label.")
    return mapped


def parse_label_map(text: str) -> dict[int, int]:
    """`3=1,4=0` as a dict.

    Raises:
        InputError: another form, or a target other than 0, 1, 2.
    """
    try:
        pairs = [part.split("=") for part in text.split(",") if part]
        mapping = {int(old): int(new) for old, new in pairs}
    except ValueError:
        mapping = {0: -1}
    if not set(mapping.values()) <= {0, 1, 2}:
        raise InputError(
            f"--label-map {text}: expected pairs such as 3=1,4=0 that map to 0, 1 or 2."
        )
    return mapping


if __name__ == "__main__":
    sys.exit(main())
