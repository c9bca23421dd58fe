"""The table of lesions in the panel: rows of a review, one line each, and which are selected."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from LiverTumorSegGUI.review import ACCEPTED, PENDING, REJECTED, Row

STATUSES = {PENDING: _("open"), ACCEPTED: _("accepted"), REJECTED: _("rejected")}
UNKNOWN = "-"
CONFIDENCE = _("Real")


def _number(value: float | None, decimals: int) -> str:
    return UNKNOWN if value is None else f"{value:.{decimals}f}"


def _status(row: Row) -> str:
    status = STATUSES[row.status]
    return _("{status}, edited").format(status=status) if row.edited else status


# Title, tooltip and text of a row, for each column.
COLUMNS = (
    (_("Lesion"), _("Its segment"), lambda row: row.name),
    (_("Status"), _("Accepted, rejected or still open, and whether you edited it"), _status),
    (_("mL"), _("Volume"), lambda row: _number(row.lesion.volume_ml, 2)),
    (
        _("mm"),
        _("Longest axial diameter and the one perpendicular to it"),
        lambda row: f"{row.lesion.long_axis_mm:.0f} x {row.lesion.short_axis_mm:.0f}",
    ),
    (_("HU"), _("Mean intensity"), lambda row: _number(row.lesion.mean_hu, 0)),
    (_("P"), _("Mean tumor probability"), lambda row: _number(row.lesion.mean_probability, 2)),
    (
        CONFIDENCE,
        _("How likely the lesion is real, by its probability and volume"),
        lambda row: _number(row.lesion.confidence, 2),
    ),
    (
        _("Depth"),
        _("Distance to the liver's surface in mm"),
        lambda row: _number(row.lesion.surface_distance_mm, 0),
    ),
    (_("%"), _("Share of the liver's volume"), lambda row: _number(row.lesion.burden_percent, 2)),
    (
        _("Edge"),
        _("Touches the edge of the scan: it may be larger"),
        lambda row: _("yes") if row.lesion.touches_edge else "",
    ),
)


FIRST_NUMBER = 2  # the columns before are texts
CONFIDENCE_COLUMN = [title for title, _tip, _text in COLUMNS].index(CONFIDENCE)


class LesionTable:
    """Shows rows in a QTableWidget and keeps the selection by segment, not by line."""

    def __init__(self, widget) -> None:
        self._widget = widget
        self._ids: list[str] = []
        widget.setColumnCount(len(COLUMNS))
        widget.setHorizontalHeaderLabels([title for title, _tip, _text in COLUMNS])
        for index, (_title, tip, _text) in enumerate(COLUMNS):
            widget.horizontalHeaderItem(index).setToolTip(tip)
        widget.verticalHeader().setVisible(False)
        widget.horizontalHeader().setMinimumSectionSize(20)
        widget.horizontalHeader().setHighlightSections(False)

    def selected(self) -> list[str]:
        """Segment ids of the selected lines, from the top."""
        lines = {index.row() for index in self._widget.selectionModel().selectedRows()}
        return [self._ids[line] for line in sorted(lines)]

    def segment_id(self, line: int) -> str:
        """The segment of a line."""
        return self._ids[line]

    def show(self, rows: tuple[Row, ...]) -> None:
        """Show these rows and no others; what was selected and is still there stays selected."""
        widget, selected = self._widget, set(self.selected())
        wasBlocked = widget.blockSignals(True)
        widget.setRowCount(len(rows))
        self._ids = [row.segment_id for row in rows]
        widget.clearSelection()
        for line, row in enumerate(rows):
            for column in range(len(COLUMNS)):
                widget.setItem(line, column, _item(row, column))
            if row.segment_id in selected:
                _select(widget, line)
        known = any(row.lesion.confidence is not None for row in rows)
        widget.setColumnHidden(CONFIDENCE_COLUMN, not known)
        widget.resizeColumnsToContents()
        widget.resizeRowsToContents()
        widget.blockSignals(wasBlocked)


def _select(widget, line: int) -> None:
    flags = qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows
    widget.selectionModel().select(widget.model().index(line, 0), flags)


def _item(row: Row, column: int):
    text = COLUMNS[column][2](row)
    item = qt.QTableWidgetItem(text)
    if column == 0:
        swatch = qt.QPixmap(12, 12)
        swatch.fill(qt.QColor(*(round(255 * value) for value in row.rgb)))
        item.setIcon(qt.QIcon(swatch))
    elif column >= FIRST_NUMBER:
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    if row.status == REJECTED:
        item.setForeground(qt.QBrush(qt.QColor("gray")))
    return item
