"""All CTs of a folder, in Slicer without a window:

    Slicer --no-main-window --python-script LiverTumorSegGUI/batch.py -- FOLDER -o OUTDIR

with the options of `livertumorseg batch`, which this is. It lies here because Slicer takes each .py
beside LiverTumorSeg.py for a module. The exit code is 0, or 2 where cases failed or the arguments
cannot be used; OUTDIR/cases.csv says more.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NEEDED = ("torch", "safetensors", "skimage")


def main(arguments: list[str]) -> int:
    """Run the batch and return its exit code."""
    folders = Path(__file__).resolve().parents
    if importlib.util.find_spec("LiverTumorSegLib") is None:
        # Installed, the library lies beside this folder; in a source checkout one level up.
        sys.path += [str(folders[1]), str(folders[2])]
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"These Python packages are missing: {', '.join(missing)}. Open the module Liver Tumor "
            "Segmentation in Slicer once and press Apply to install them.\n"
        )
        return 2
    from LiverTumorSegLib import cli

    return cli.main(["batch", *arguments])


def leave(code: int) -> None:
    """End the program; Slicer would go on running after a script."""
    try:
        import slicer.util
    except ImportError:
        sys.exit(code)
    if not hasattr(slicer, "app"):  # the package slicer-core, without the program
        sys.exit(code)
    slicer.util.exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[2:] if sys.argv[1:2] == ["--"] else sys.argv[1:]))
