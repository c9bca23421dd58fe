"""Lesion review: accept, reject, merge, split, re-threshold and measure while the user edits.

Without Qt. A lesion is a segment that this module made (all but `liver`), or one that the user
added to the segmentation and gave the terminology category "Morphologically Altered Structure"
(Mass, Neoplasm, Cyst, ...). Rows keep the order of the segments. The status is Slicer's own:

- PENDING: "Not started" or "In progress".
- ACCEPTED: "Completed".
- REJECTED: "Flagged", and hidden; it keeps its row but does not count in sums, labels and reports.

What the user does elsewhere in Slicer, in the Segment Editor above all, is taken over and can be
undone here as well, in the order in which it happened. Only changes of the liver cannot: the
Segment Editor has its own undo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from LiverTumorSegGUI.diameters import DiameterLines
from LiverTumorSegGUI.nodes import Row, ras_of, volume_in_place, write_rows
from LiverTumorSegGUI.segments import (
    ACCEPTED,
    AUTOMATIC,
    CLOSED_SURFACE,
    EDITED,
    LIVER_ID,
    PENDING,
    REJECTED,
    TUMOR_ID,
    is_edited,
    is_ours,
    lesion_ids,
    new_segment,
    on_grid,
    read_parts,
    set_status,
    stamp,
    status_of,
    write_parts,
)
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.measure import (
    Lesion,
    Measurement,
    Scan,
    burden_percent,
    liver_intensity,
    measure_lesion,
    outermost,
)
from LiverTumorSegLib.part import Part, part_of, union
from LiverTumorSegLib.recipe import LesionConfidence
from LiverTumorSegLib.relabel import HIGHEST, LOWEST, Relabeler
from LiverTumorSegLib.seg_nrrd import ORIGIN_TAG, tumor_segment
from LiverTumorSegLib.split import split_lesion

__all__ = ["ACCEPTED", "HIGHEST", "LOWEST", "PENDING", "REJECTED", "Review", "Row"]

_UNDO_STEPS = 50
_EVENTS = (
    slicer.vtkSegmentation.SourceRepresentationModified,
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
    slicer.vtkSegmentation.SegmentsOrderModified,
)


@dataclass(frozen=True, eq=False)
class _State:
    """A lesion's segment at one time, enough to bring it back.

    metadata - A vtkSegment without voxels: name, color, terminology.
    position - Its place among the segments.
    """

    part: Part
    status: str
    edited: bool
    metadata: object
    position: int

    def same(self, other: _State | None) -> bool:
        """Whether nothing changed that undo could bring back."""
        return (
            other is not None
            and (self.status, self.edited) == (other.status, other.edited)
            and (self.part is other.part or self.part.same(other.part))
        )


def _segment(state: _State):
    segment = slicer.vtkSegment()
    segment.DeepCopyMetadata(state.metadata)
    return segment


_States = Mapping[str, "_State | None"]  # by segment id; None: there is no such lesion


@dataclass(frozen=True)
class _Step:
    """What one action changed, for undo and redo."""

    text: str
    before: _States
    after: _States
    threshold: bool = False


class Review:
    """The lesions of one segmentation of one CT. Call `close` before letting go of it."""

    def __init__(
        self,
        volume_node,
        segmentation_node,
        table_node,
        tumor_probability: np.ndarray | None = None,
        *,
        smallest_mm3: float = 0.0,
        confidence: LesionConfidence | None = None,
        on_change: Callable[[], None] | None = None,
        schedule: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """Measure all lesions, fill the table and follow the segmentation from now on.

        Args:
            volume_node: the CT.
            segmentation_node: what `nodes.write_segments` filled, as it is now.
            table_node: rewritten on each change; None: no table node.
            tumor_probability: float16 (z, y, x) on the CT's grid, may be memory-mapped. None: no
                mean probability and no `threshold`.
            smallest_mm3: `threshold` drops smaller lesions: `min_lesion_mm3` of the tumor recipe.
            confidence: of the tumor recipe.
            on_change: called after rows, statuses or numbers changed; not by the constructor.
            schedule: called with `update` when the user changed the segmentation; may call it
                later, to join quick events. None: at once.
        """
        self._volume_node = volume_node
        self._segmentation_node = segmentation_node
        self._table_node = table_node
        self._probability = tumor_probability
        self._smallest_mm3 = smallest_mm3
        self._confidence = confidence
        self._on_change = on_change or (lambda: None)
        self._schedule = schedule or (lambda update: update())
        self._lines = DiameterLines(segmentation_node)
        self._with_line: frozenset[str] = frozenset()

        self._states: dict[str, _State] = {}
        self._stamps: dict[str, tuple] = {}
        self._lesions: dict[str, Lesion] = {}
        self._measured: dict[str, Part] = {}  # what `_lesions` tells the numbers of
        self._outside: dict[str, Part] = {}  # of each lesion, what lies outside the liver
        self._liver: Part | None = None
        self._liver_stamp: tuple | None = None
        self._liver_voxels = 0
        self._surface_mm = np.empty((0, 3))
        self._liver_ml = 0.0
        self._relabeler: Relabeler | None = None
        self._rows: tuple[Row, ...] = ()
        self._done: list[_Step] = []
        self._undone: list[_Step] = []

        self._writing = False
        self._observers: list[int] = []
        self._take_over()
        self._refresh()
        if tumor_probability is not None:
            self._relabel()
        self._observers = [
            segmentation_node.AddObserver(event, self._on_segmentation_event) for event in _EVENTS
        ]

    def close(self) -> None:
        """Stop following the segmentation. Nodes stay as they are. May be called twice."""
        for observer in self._observers:
            self._segmentation_node.RemoveObserver(observer)
        self._observers = []

    def update(self) -> None:
        """Take over what the user changed in the segmentation since the last call."""
        if self._follows():
            self._flush()
            self._on_change()

    # ---- what there is

    def rows(self) -> tuple[Row, ...]:
        """One row a lesion, in the order of the segments."""
        return self._rows

    def row(self, segment_id: str) -> Row:
        """The row of a segment; KeyError if it is no lesion."""
        for row in self._rows:
            if row.segment_id == segment_id:
                return row
        raise KeyError(segment_id)

    def summary(self) -> str:
        """Liver, counted tumors and burden in a sentence, and how many are still to review."""
        counts = Counter(row.status for row in self._rows)
        found = self._totals()
        liver = _("Liver {volume:.0f} mL.").format(volume=found.liver_volume_ml)
        if not self._rows:
            return liver + " " + _("No tumor found.")
        tumors = _("Tumors: {count}, {volume:.1f} mL, {burden:.1f} % of the liver.").format(
            count=len(found.lesions),
            volume=found.tumor_volume_ml,
            burden=found.tumor_burden_percent,
        )
        progress = _("{accepted} accepted, {rejected} rejected, {pending} to review.").format(
            accepted=counts[ACCEPTED], rejected=counts[REJECTED], pending=counts[PENDING]
        )
        return " ".join([liver, tumors, progress])

    def measurement(self) -> Measurement:
        """The numbers of liver and counted (not rejected) lesions, numbered anew, largest first."""
        intensity = liver_intensity(volume_in_place(self._volume_node), self.labels()[0])
        return replace(self._totals(), liver_mean_hu=intensity[0], liver_sd_hu=intensity[1])

    def _totals(self) -> Measurement:
        """What needs no look at the CT, and so can be told after every stroke."""
        lesions = tuple(
            replace(self._lesions[segment_id], lesion=number)
            for number, segment_id in enumerate(self._by_size(), start=1)
        )
        tumor_ml = sum(lesion.volume_ml for lesion in lesions)
        burden = burden_percent(tumor_ml, self._liver_ml)
        return Measurement(self._liver_ml, tumor_ml, burden, lesions)

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """What a report is made of: labels and lesion map of the counted lesions.

        Returns:
            uint8 (z, y, x): 0 background, 1 liver, 2 tumor; and int32 (z, y, x) with the lesion's
            number in `measurement`. Where two lesions overlap, the smaller one shows.
        """
        shape = volume_in_place(self._volume_node).geometry.shape
        labels, lesion_map = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
        if self._liver is not None:
            labels[self._liver.box][self._liver.mask] = LIVER
        for number, segment_id in enumerate(self._by_size(), start=1):
            part = self._states[segment_id].part
            labels[part.box][part.mask] = TUMOR
            lesion_map[part.box][part.mask] = number
        return labels, lesion_map

    def edited_liver(self) -> np.ndarray | None:
        """The liver with its lesions, bool (z, y, x), if the user has edited it; else None."""
        segment = self._segmentation.GetSegment(LIVER_ID)
        return self.labels()[0] > 0 if segment and is_edited(segment) else None

    # ---- what the user does here

    def accept(self, segment_ids: Sequence[str]) -> None:
        """Mark lesions as accepted; a rejected one shows and counts again."""
        self._set_status(segment_ids, ACCEPTED, _("Accept {segments}"))

    def reject(self, segment_ids: Sequence[str]) -> None:
        """Hide lesions and count them no longer; their voxels stay, so accept brings them back."""
        self._set_status(segment_ids, REJECTED, _("Reject {segments}"))

    def merge(self, segment_ids: Sequence[str]) -> str:
        """Join lesions into the first of them in row order, to be reviewed; returns its id.

        Raises:
            InputError: fewer than two lesions.
        """
        self._flush()
        first, *others = [
            row.segment_id for row in self._rows if row.segment_id in segment_ids
        ] or [""]
        if not others:
            raise InputError(_("Select two or more lesions to merge."))
        parts = [self._states[segment_id].part for segment_id in (first, *others)]
        merged = replace(self._states[first], part=union(parts), status=PENDING, edited=True)
        text = _("Merge {segments}").format(segments=self._names((first, *others)))
        self._do(text, {first: merged, **dict.fromkeys(others)})
        return first

    def split(self, segment_id: str) -> list[str]:
        """Part a lesion into its separate parts, or in two at its neck, all to be reviewed.

        The largest part keeps the segment; see LiverTumorSegLib.split.

        Returns:
            The segment ids of all parts.

        Raises:
            InputError: it is in one piece and has no neck.
        """
        self._flush()
        old, name = self._states[segment_id], self.row(segment_id).name
        spacing_mm = volume_in_place(self._volume_node).geometry.spacing_mm
        largest, *others = split_lesion(old.part, spacing_mm)
        if not others:
            raise InputError(
                _(
                    "{segment} is in one piece without a neck to cut it at: cut it in the Segment "
                    "Editor with Scissors or Erase, then split it here."
                ).format(segment=name)
            )
        after = {segment_id: replace(old, part=largest, status=PENDING, edited=True)}
        number = self._last_number()
        for offset, part in enumerate(others, start=1):
            after[f"tumor_{number + offset}"] = self._new(
                number + offset, part, edited=True, position=old.position + offset
            )
        self._do(_("Split {segment}").format(segment=name), after)
        return list(after)

    def add_lesion(self, mask: np.ndarray) -> str:
        """Add a lesion that the user asked for ("segment here"); returns its segment id.

        Args:
            mask: bool (z, y, x) on the CT's grid. Voxels of other counted lesions are left out.

        Raises:
            InputError: nothing is left.
        """
        self._flush()
        part = part_of(mask)
        there = [
            row
            for row in self._rows
            if row.status != REJECTED
            and (self._states[row.segment_id].part.within(part.box) & part.mask).any()
        ]
        part = part.without(self._states[row.segment_id].part for row in there)
        if part.voxels == 0:
            raise InputError(
                _("{segments} is already there.").format(segments=there[0].name)
                if there
                else _("No tumor found here.")
            )
        number = self._last_number() + 1
        position = self._segmentation.GetNumberOfSegments()
        segment_id, state = (
            f"tumor_{number}",
            self._new(number, part, edited=True, position=position),
        )
        name = state.metadata.GetName()
        self._do(_("Add {segment}").format(segment=name), {segment_id: state})
        return segment_id

    def threshold(self, value: float) -> None:
        """Make the automatic tumor segments anew: probability >= value within the liver.

        A lesion that the user edited, made, accepted or rejected stays as it is. An automatic one
        keeps its segment as long as it stays in place, also when it disappears in between.

        Args:
            value: from LOWEST to HIGHEST.

        Raises:
            InputError: there is no probability map or no liver.
        """
        if self._probability is None:
            raise InputError(
                _("There is no tumor probability for this segmentation: run it again first.")
            )
        self._flush()
        relabeler = self._relabel()
        if relabeler is None:
            raise InputError(_("There is no liver to look for tumors in: run again first."))
        numbers = self._numbers()
        for id_, state in self._states.items():
            relabeler.remember(numbers[id_], state.part)
        automatic = {
            id_
            for id_, state in self._states.items()
            if not state.edited
            and state.status == PENDING
            and TUMOR_ID.fullmatch(id_)
            and is_ours(self._segmentation.GetSegment(id_))
        }
        kept = {numbers[id_]: s.part for id_, s in self._states.items() if id_ not in automatic}
        after: dict[str, _State | None] = dict.fromkeys(automatic)
        found = relabeler.lesions(value, kept)
        order = [
            id_
            for id_ in self._segmentation.GetSegmentIDs()
            if id_ not in automatic or numbers[id_] in found
        ]
        for number, part in sorted(found.items()):
            id_ = f"tumor_{number}"
            old = self._states.get(id_)
            if old is None:
                before = [i for i, other in enumerate(order) if numbers.get(other, 0) < number]
                order.insert(before[-1] + 1, id_)
                after[id_] = self._new(number, part, edited=False, position=before[-1] + 1)
                numbers[id_] = number
            else:
                after[id_] = replace(old, part=old.part if old.part.same(part) else part)
        text = _("Threshold {value:.2f}").format(value=value)
        self._do(text, after, threshold=True)

    @property
    def has_probability(self) -> bool:
        """Whether `threshold` can be used."""
        return self._probability is not None

    @property
    def undo_text(self) -> str:
        """What `undo` would undo, for a tooltip; empty: nothing."""
        return self._done[-1].text if self._done else ""

    @property
    def redo_text(self) -> str:
        """What `redo` would do again; empty: nothing."""
        return self._undone[-1].text if self._undone else ""

    def undo(self) -> None:
        """Take back the last change, made here or by hand; nothing to undo: does nothing."""
        self._flush()
        if self._done:
            step = self._done.pop()
            self._undone.append(step)
            self._apply(step.before)

    def redo(self) -> None:
        """Do again what was undone last."""
        self._flush()
        if self._undone:
            step = self._undone.pop()
            self._done.append(step)
            self._apply(step.after)

    def jump(self, segment_id: str) -> None:
        """Bring all slice views to the middle of the lesion's long axis."""
        start, end = np.array(self.row(segment_id).lesion.long_axis_ends_mm)
        world = [0.0, 0.0, 0.0]
        self._segmentation_node.TransformPointToWorld(ras_of((start + end) / 2), world)
        scene, centered = (
            self._segmentation_node.GetScene(),
            slicer.vtkMRMLSliceNode.CenteredJumpSlice,
        )
        slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *world, centered)

    def show_diameters(self, segment_ids: Sequence[str]) -> None:
        """Show the long axes of these lesions as locked lines, and of no others."""
        self._with_line = frozenset(segment_ids)
        self._show_lines()

    # ---- from the segmentation

    @property
    def _segmentation(self):
        return self._segmentation_node.GetSegmentation()

    def _on_segmentation_event(self, caller, event) -> None:
        if not self._writing:
            self._schedule(self.update)

    def _follows(self) -> bool:
        return bool(self._observers) and self._segmentation_node.GetScene() is not None

    def _flush(self) -> None:
        """What `update` does, without telling."""
        if self._follows():
            step = self._take_over()
            if step.before:
                self._remember(step)
            self._refresh()

    def _take_over(self) -> _Step:
        """Read what changed since the last time; the step that undoes it."""
        self._read_liver()
        ids = lesion_ids(self._segmentation_node)
        stamps = {id_: stamp(self._segmentation.GetSegment(id_)) for id_ in ids}
        touched = [id_ for id_ in ids if self._stamps.get(id_) != stamps[id_]]
        parts = read_parts(self._segmentation_node, self._volume_node, touched)
        states = {}
        for id_ in ids:
            old = self._states.get(id_)
            if old is not None and (id_ not in parts or parts[id_].same(old.part)):
                states[id_] = self._state(id_, old.part)
            else:
                self._mark_edited(id_, self._stamps.get(id_))
                states[id_] = self._state(id_, parts[id_])
        before: dict[str, _State | None] = {
            id_: old
            for id_, old in self._states.items()
            if not old.same(states.get(id_)) and (id_ in states or is_ours(old.metadata))
        }
        # Undo must not remove a segment that only became a lesion, by another terminology.
        new = set(states) - set(self._states)
        before |= {id_: None for id_ in new if is_ours(states[id_].metadata)}
        self._states, self._stamps = states, stamps
        after = {id_: states.get(id_) for id_ in before}
        changed = [state for id_, old in before.items() if (state := after[id_] or old)]
        names = ", ".join(state.metadata.GetName() for state in changed)
        return _Step(_("Edit {segments}").format(segments=names), before, after)

    def _mark_edited(self, segment_id: str, earlier: tuple | None) -> None:
        """Mark what the user changed; a segment that a new run has put there is another one."""
        segment = self._segmentation.GetSegment(segment_id)
        if earlier is not None and earlier[0] is segment and is_ours(segment):
            with self._quiet():
                segment.SetTag(ORIGIN_TAG, EDITED)

    def _state(self, segment_id: str, part: Part) -> _State:
        segment = self._segmentation.GetSegment(segment_id)
        metadata = slicer.vtkSegment()
        metadata.DeepCopyMetadata(segment)
        position = self._segmentation.GetSegmentIndex(segment_id)
        edited = is_edited(segment) or not is_ours(segment)
        return _State(part, status_of(segment), edited, metadata, position)

    def _read_liver(self) -> None:
        segment = self._segmentation.GetSegment(LIVER_ID)
        found = segment and stamp(segment)
        if found == self._liver_stamp:
            return
        earlier, before = self._liver_stamp, self._liver
        self._liver_stamp, self._liver, self._relabeler = found, None, None
        self._lesions.clear()  # their depth and share depend on the liver
        self._surface_mm, self._liver_voxels = np.empty((0, 3)), 0
        if segment is None:
            return
        liver = read_parts(self._segmentation_node, self._volume_node, [LIVER_ID])[LIVER_ID]
        self._liver_voxels = liver.voxels
        if self._liver_voxels:
            self._liver = liver
            geometry = volume_in_place(self._volume_node).geometry
            self._surface_mm = outermost(liver.mask, liver.box, geometry)
        if before is not None and not liver.same(before):
            self._mark_edited(LIVER_ID, earlier)

    # ---- to the segmentation

    def _do(self, text: str, after: _States, *, threshold: bool = False) -> None:
        """Bring segments into the states given, by one step that can be undone."""
        before = {id_: self._states.get(id_) for id_ in after}
        step = _Step(text, before, after, threshold)
        last = self._done[-1] if self._done else None
        if threshold and last and last.threshold and not self._undone:  # one drag of the slider
            self._done.pop()
            step = replace(step, before=before | last.before, after=last.after | after)
        self._remember(step)
        self._apply(after)

    def _remember(self, step: _Step) -> None:
        self._done = [*self._done, step][-_UNDO_STEPS:]
        self._undone.clear()

    def _apply(self, states: _States) -> None:
        """Bring segments into the states given, then measure and show what changed."""
        moved = {
            id_: state
            for id_, state in states.items()
            if state and (id_ not in self._states or state.part is not self._states[id_].part)
        }
        with self._quiet(), slicer.util.NodeModify(self._segmentation_node):
            for id_, state in states.items():
                if state is None and id_ in self._states:
                    self._segmentation.RemoveSegment(id_)
            if moved:
                self._write(moved)
            for id_, state in states.items():
                if state:
                    self._set_marks(id_, state)
        kept = {**self._states, **states}
        ids = lesion_ids(self._segmentation_node)
        self._states = {id_: state for id_ in ids if (state := kept[id_])}
        self._stamps = {id_: stamp(self._segmentation.GetSegment(id_)) for id_ in ids}
        self._refresh()
        self._on_change()

    def _write(self, moved: Mapping[str, _State]) -> None:
        """Write voxels. All lesions on the CT's grid go into one image again, changed or not."""
        parts = {id_: state.part for id_, state in moved.items()}
        for id_ in lesion_ids(self._segmentation_node):
            if id_ not in parts and on_grid(self._segmentation_node, self._volume_node, id_):
                parts[id_] = self._states[id_].part
        new = {id_: _segment(state) for id_, state in moved.items() if id_ not in self._states}
        write_parts(parts, self._segmentation_node, self._volume_node, new)
        for id_ in sorted(new, key=lambda id_: moved[id_].position):
            self._segmentation.SetSegmentIndex(id_, moved[id_].position)
        if self._segmentation.ContainsRepresentation(CLOSED_SURFACE):
            for id_ in moved:
                self._segmentation.GetSegment(id_).RemoveRepresentation(CLOSED_SURFACE)
            self._segmentation.CreateRepresentation(CLOSED_SURFACE)  # where it is missing

    def _set_marks(self, segment_id: str, state: _State) -> None:
        segment = self._segmentation.GetSegment(segment_id)
        if is_ours(segment):
            segment.SetTag(ORIGIN_TAG, EDITED if state.edited else AUTOMATIC)
        if status_of(segment) != state.status:
            set_status(self._segmentation_node, segment_id, state.status)

    def _set_status(self, segment_ids: Sequence[str], status: str, text: str) -> None:
        self._flush()
        after = {
            id_: replace(state, status=status)
            for id_ in segment_ids
            if (state := self._states[id_]).status != status
        }
        if after:
            self._do(text.format(segments=self._names(after)), after)

    def _new(self, number: int, part: Part, *, edited: bool, position: int) -> _State:
        metadata = new_segment(tumor_segment(number))
        return _State(part, PENDING, edited, metadata, position)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """What happens to the segmentation in here is no doing of the user."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    # ---- numbers

    def _refresh(self) -> None:
        """Measure what changed; make rows, table and lines anew."""
        filled = {id_: state for id_, state in self._states.items() if state.part.voxels}
        changed = {
            id_
            for id_, state in filled.items()
            if id_ not in self._lesions or self._measured.get(id_) is not state.part
        }
        self._measured = {id_: state.part for id_, state in filled.items()}
        liver = [self._liver] if self._liver else []
        self._outside = {
            id_: part.without(liver) if id_ in changed else self._outside[id_]
            for id_, part in self._measured.items()
        }
        self._liver_ml = self._liver_volume_ml()
        numbers = self._numbers()
        self._lesions = {
            id_: self._measure(id_, numbers[id_])
            if id_ in changed
            else replace(
                self._lesions[id_],
                lesion=numbers[id_],
                burden_percent=burden_percent(self._lesions[id_].volume_ml, self._liver_ml),
            )
            for id_ in filled
        }
        self._rows = tuple(self._row(id_) for id_ in filled)
        if self._table_node is not None and self._table_node.GetScene() is not None:
            write_rows(self._rows, self._table_node)
        self._show_lines()

    def _measure(self, segment_id: str, number: int) -> Lesion:
        part = self._measured[segment_id]
        volume = volume_in_place(self._volume_node)
        scan = Scan(volume, self._surface_mm, self._liver_ml, self._probability, self._confidence)
        lesion = measure_lesion(number, part.mask, part.box, scan)
        if self._liver and self._outside[segment_id].voxels:  # it makes the surface itself
            lesion = replace(lesion, surface_distance_mm=0.0)
        return lesion

    def _liver_volume_ml(self) -> float:
        """The liver with what counted lesions add to it."""
        beyond = [part for id_, part in self._outside.items() if self._counts(id_) and part.voxels]
        voxels = self._liver_voxels + (union(beyond).voxels if beyond else 0)
        return voxels * volume_in_place(self._volume_node).geometry.voxel_ml

    def _row(self, segment_id: str) -> Row:
        segment, state = self._segmentation.GetSegment(segment_id), self._states[segment_id]
        name, rgb = segment.GetName(), segment.GetColor()
        return Row(segment_id, name, rgb, state.status, state.edited, self._lesions[segment_id])

    def _show_lines(self) -> None:
        shown = self._with_line.intersection(filter(self._counts, self._lesions))
        self._lines.show({row.segment_id: row for row in self._rows if row.segment_id in shown})

    def _relabel(self) -> Relabeler | None:
        """The relabeler of the liver as it is, made when missing; None without a liver."""
        if self._relabeler is None and self._liver:
            voxel_mm3 = 1000.0 * volume_in_place(self._volume_node).geometry.voxel_ml
            self._relabeler = Relabeler(
                self._probability, self._liver, self._smallest_mm3 / voxel_mm3
            )
        return self._relabeler

    def _counts(self, segment_id: str) -> bool:
        return self._states[segment_id].status != REJECTED

    def _by_size(self) -> list[str]:
        """The counted lesions, largest first."""
        counted = filter(self._counts, self._lesions)
        return sorted(counted, key=lambda id_: -self._lesions[id_].volume_ml)

    def _numbers(self) -> dict[str, int]:
        """The lesions' numbers: those in our ids, then the user's own in their order."""
        last, numbers = self._last_number(), {}
        for id_ in self._states:
            ours = TUMOR_ID.fullmatch(id_)
            last += not ours
            numbers[id_] = int(ours[1]) if ours else last
        return numbers

    def _last_number(self) -> int:
        return max(
            [
                int(m[1])
                for id_ in self._segmentation.GetSegmentIDs()
                if (m := TUMOR_ID.fullmatch(id_))
            ],
            default=0,
        )

    def _names(self, segment_ids: Iterable[str]) -> str:
        return ", ".join(self._segmentation.GetSegment(id_).GetName() for id_ in segment_ids)
