"""When a CT was acquired, if its files tell: used to compare, never written anywhere."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

_TAGS = ("0008|0022", "0008|0021", "0008|0020")  # acquisition, series, study


def acquisition_date(path: Path) -> str | None:
    """The date as YYYYMMDD by the first DICOM file of a folder that tells one.

    Args:
        path: a folder with one DICOM series, or any other image, which tells none.
    """
    if not path.is_dir():
        return None
    for file in sorted(path.iterdir()):
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:  # no DICOM image
            continue
        for tag in _TAGS:
            text = reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""
            if len(text) == 8 and text.isdecimal():
                return text
    return None
