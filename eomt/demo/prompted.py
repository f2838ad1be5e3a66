"""Clicks and boxes on an image, and the masks of the objects that they mean."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eomt.demo.sessions import Session
from eomt.demo.work import Work
from eomt.errors import UserError
from eomt.pictures.colors import Color
from eomt.results import MasksResult

INCLUDE, EXCLUDE, BOX = "include", "exclude", "box"
MOST_OBJECTS, MOST_CLICKS = 24, 32
# as those of a traffic light, with a sign for who cannot tell them apart
SIGN_COLORS: dict[int, Color] = {1: (0, 158, 115), 0: (213, 94, 0)}
BOX_COLOR: Color = (0, 255, 255)
WHITE: Color = (255, 255, 255)


@dataclass(frozen=True)
class Marked:
    """What was marked of an object, in pixels of the image.

    Attributes:
        points: x, y, and 1 on the object or 0 off it.
        box: x0, y0, x1, y1.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None

    def __bool__(self) -> bool:
        return bool(self.points) or self.box is not None


@dataclass(frozen=True)
class Marks:
    """What was marked of all objects, the last of which is worked on.

    Attributes:
        objects: At least one.
        corner: The first corner of a box whose second is awaited.
    """

    objects: tuple[Marked, ...] = (Marked(),)
    corner: tuple[float, float] | None = None


@dataclass
class Drawing:
    """The marks of an image, and those before, for undo."""

    marks: Marks = Marks()
    before: list[Marks] = field(default_factory=list)

    def click(self, x: float, y: float, mode: str) -> None:
        """Add a click: a point, or a corner of a box, whose second corner makes it.

        Raises:
            UserError: If there are too many, or the mode is none.
        """
        last, marks = self.marks.objects[-1], self.marks
        if mode == BOX:
            if marks.corner is None:
                self._become(replace(marks, corner=(x, y)))
            else:
                self.drag(*marks.corner, x, y)
            return
        if mode in (INCLUDE, EXCLUDE):
            if len(last.points) >= MOST_CLICKS:
                raise UserError(f"clicks: {MOST_CLICKS} on one object are all that is taken; undo some")
            last = replace(last, points=(*last.points, (x, y, int(mode == INCLUDE))))
        else:
            raise UserError(f"mode: {str(mode)[:20]!r}; choose {INCLUDE}, {EXCLUDE} or {BOX}")
        self._become(Marks((*marks.objects[:-1], last)))

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Add a box between two corners, in place of the object's earlier one."""
        (left, right), (top, bottom) = sorted((x0, x1)), sorted((y0, y1))
        last = replace(self.marks.objects[-1], box=(left, top, right, bottom))
        self._become(Marks((*self.marks.objects[:-1], last)))

    def start_object(self) -> None:
        """Begin another object; the one that is worked on must have something marked.

        Raises:
            UserError: If there are too many.
        """
        if not self.marks.objects[-1]:
            raise UserError("new object: the last one has no click yet; click on it")
        if len(self.marks.objects) >= MOST_OBJECTS:
            raise UserError(f"new object: {MOST_OBJECTS} are all that is taken; clear some")
        self._become(Marks((*self.marks.objects, Marked())))

    def undo(self) -> None:
        """Take the last change back, if there is one."""
        if self.before:
            self.marks = self.before.pop()

    def clear(self) -> None:
        """Remove all marks; it can be undone."""
        if self.marks != Marks():
            self._become(Marks())

    def _become(self, marks: Marks) -> None:
        self.before.append(self.marks)
        self.marks = marks


class PromptedWork(Work):
    """A SAM 2: an image is encoded once for each model, and asked with each click."""

    def drawing(self, key: str) -> Drawing:
        """Return the marks of a page's image.

        Raises:
            UserError: If there is no image.
        """
        session = self.sessions.of(key)
        session.prompts = session.prompts or Drawing()
        return session.prompts

    def masks(self, key: str, model: str, multimask: bool) -> MasksResult:
        """Return the masks of the objects that are marked; without a mark, the classes of a prompt-free network.

        Raises:
            UserError: If there is no image.
        """
        session = self.sessions.of(key)
        marked = [marks for marks in self.drawing(key).marks.objects if marks]
        with self.models.using(model) as predictor:
            if model not in session.features:
                session.features[model] = predictor.encode(session.upload.image)  # type: ignore[attr-defined]
            if not marked and not predictor.model.prompt_free:  # type: ignore[attr-defined]
                return self._nothing(session)
            # those of one kind would do at once, but a decoder takes milliseconds
            asked = [_asked(marks) for marks in marked] or [{}]
            found = [
                predictor.predict(session.features[model], multimask=multimask, **prompts)  # type: ignore[attr-defined]
                for prompts in asked
            ]
        return replace(joined(found), name=session.upload.name)

    def _nothing(self, session: Session) -> MasksResult:
        image = session.upload.pixels
        empty = np.zeros((0, *image.shape[:2]), bool)
        rest = np.zeros(0, np.float32)
        return MasksResult(image, empty, rest, np.zeros((0, 4)), [], [], np.zeros((0, 1, 1)), name=session.upload.name)


def _asked(marks: Marked) -> dict[str, Any]:
    """Return the arguments of the predictor for one object."""
    found: dict[str, Any] = {}
    if marks.points:
        found["points"] = [[point[:2] for point in marks.points]]
        found["point_labels"] = [[point[2] for point in marks.points]]
    if marks.box is not None:
        found["boxes"] = [marks.box]
    return found


def joined(results: Sequence[MasksResult]) -> MasksResult:
    """Return the objects of several results of one image as one, without their prompts."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(result, name) for result in results])
        for name in ("masks", "scores", "boxes", "logits")
    }
    labels = [label for result in results for label in result.labels]
    names = list(dict.fromkeys(name for result in results for name in result.class_names))
    return replace(results[0], **arrays, labels=labels, class_names=names, prompts=None)


def draw_marks(picture: Image.Image, marks: Marks, times: float) -> Image.Image:
    """Return a picture with marks on it: a plus on the object, a minus off it, boxes, and a corner that waits.

    Args:
        picture: Of the image, enlarged or shrunk.
        marks: In pixels of the image.
        times: Side of the picture by that of the image.
    """
    found = picture.copy()
    draw = ImageDraw.Draw(found)
    radius = max(7, max(found.size) // 110)

    def place(value: float) -> float:
        # a whole number is the center of a pixel
        return (value + 0.5) * times

    for marked in marks.objects:
        if marked.box is not None:
            draw.rectangle([place(value) for value in marked.box], outline=BOX_COLOR, width=max(2, radius // 3))
        for x, y, sign in marked.points:
            left, top = place(x), place(y)
            draw.ellipse((left - radius, top - radius, left + radius, top + radius), SIGN_COLORS[sign], WHITE, 2)
            half = radius // 2
            draw.line((left - half, top, left + half, top), WHITE, 2)
            if sign:
                draw.line((left, top - half, left, top + half), WHITE, 2)
    if marks.corner is not None:
        left, top = map(place, marks.corner)
        draw.line((left - radius, top, left + radius, top), BOX_COLOR, 3)
        draw.line((left, top - radius, left, top + radius), BOX_COLOR, 3)
    return found
