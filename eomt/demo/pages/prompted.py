"""The page of prompted segmentation: a click or a box becomes a mask."""

import json
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any, ClassVar

import gradio as gr
from PIL import Image

from eomt.demo.pages.page import EVENT, Answering, Page, answered, hint, no_files, take_files
from eomt.demo.prompted import BOX, EXCLUDE, INCLUDE, PromptedWork, draw_marks
from eomt.demo.work import shown, shown_size
from eomt.errors import UserError
from eomt.pictures.colors import palette
from eomt.results import MasksResult
from eomt.results.masks import MOST_COLORS

MODES = [("Include", INCLUDE), ("Exclude", EXCLUDE), ("Corner of a box", BOX)]


class PromptedPage(Page):
    """Masks of what is clicked on."""

    script: ClassVar[str] = files("eomt.demo.pages").joinpath("drag.js").read_text(encoding="utf-8")
    title: ClassVar[str] = "Prompted segmentation"
    words: ClassVar[str] = "Drop an image, then click on an object in it: its mask appears."
    then: ClassVar[str] = "Click on an object, or draw a box around it. More clicks refine its mask."
    work: PromptedWork

    def controls(self) -> None:
        """Put the kinds of clicks, and the buttons, below the image."""
        self.mode = gr.Radio(MODES, value=INCLUDE, label="A click means", elem_id="mode")
        with gr.Row():
            self.undo = gr.Button("Undo", size="sm", elem_id="undo", min_width=80)
            self.new = gr.Button("New object", size="sm", elem_id="new", min_width=80)
            self.clear = gr.Button("Clear", size="sm", elem_id="clear", min_width=80)

    def details(self) -> None:
        """Put the table of objects, and what is seldom set, below the buttons."""
        self.table = gr.HTML(elem_id="objects")
        self.multimask = gr.Checkbox(
            label="Take the best of three masks", info="A single click may mean a part or the whole.", elem_id="three"
        )
        self.opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the masks", elem_id="opacity")

    def outputs(self) -> None:
        """Put the image that is clicked on, and the comparison."""
        with gr.Tab("Masks") as masks:
            self.picture = gr.Image(
                label="Click here",
                show_label=False,
                interactive=False,
                elem_id="picture",
                buttons=["fullscreen"],
                format="png",
            )
            # what is drawn with the mouse held down comes by way of it, see drag.js
            self.dragged = gr.Textbox(visible="hidden", elem_id="drag")
        self.comparison(masks)

    def wire(self) -> None:
        """Answer each click."""
        asked = [self.model, self.multimask, self.opacity]
        told = [self.picture, self.table, self.files]
        events = [
            self.on([self.file.upload, self.file.clear], self.opened(self.answer), [self.file, *asked], told),
            self.on([self.model.input, self.multimask.input, self.opacity.release], self.answer, asked, told),
            self.on([self.undo.click], self.take_back, asked, told),
            self.on([self.new.click], self.start_object, asked, told),
            self.on([self.clear.click], self.remove_all, asked, told),
            *self._on_marks(asked, told),
        ]
        self.compare_after(events, asked)
        self.on([self.take.click], self.make_files, asked, [self.files])

    def _on_marks(self, asked: list[Any], told: list[Any]) -> list[Any]:
        """Let clicks and drags on the picture be answered; none is left out, however fast they come."""

        def marked(request: gr.Request, function: Answering, *values: Any) -> tuple[Any, ...]:
            found, message = answered(function, request, values)
            return (message or hint(self.then), *(found or [gr.skip()] * len(told)))

        def clicked(event: gr.SelectData, request: gr.Request, mode: str, *values: Any) -> tuple[Any, ...]:
            return marked(request, self.click, event.index, mode, *values)

        def dragged(request: gr.Request, corners: str, *values: Any) -> tuple[Any, ...]:
            return marked(request, self.drag, corners, *values)

        event = EVENT | {"trigger_mode": "multiple", "show_progress_on": self.picture}
        shown = [self.message, *told]
        return [
            self.picture.select(clicked, [self.mode, *asked], shown, **event),
            self.dragged.change(dragged, [self.dragged, *asked], shown, **event),
        ]

    def click(self, key: str, place: Any, mode: str, model: str, multimask: bool, opacity: float) -> tuple[Any, ...]:
        """Add a click at a place of the picture, x and y in its pixels, and return what `answer` does."""
        self.work.drawing(key).click(*self._pixel(key, place), mode)
        return self.answer(key, model, multimask, opacity)

    def drag(self, key: str, corners: str, *asked: Any) -> tuple[Any, ...]:
        """Add a box, and return what `answer` does.

        Args:
            key: Of the page.
            corners: JSON list of x0, y0, x1, y1 in pixels of the picture, and a number that counts the drags.
            *asked: What an answer is asked with.

        Raises:
            UserError: If it is none.
        """
        try:
            x0, y0, x1, y1, _ = map(float, json.loads(corners))
        except (ValueError, TypeError) as error:
            raise UserError("box: not understood; draw it again") from error
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise UserError("box: not understood; draw it again")
        self.work.drawing(key).drag(*self._pixel(key, (x0, y0)), *self._pixel(key, (x1, y1)))
        return self.answer(key, *asked)

    def take_back(self, key: str, *asked: Any) -> tuple[Any, ...]:
        """Undo the last change."""
        self.work.drawing(key).undo()
        return self.answer(key, *asked)

    def start_object(self, key: str, *asked: Any) -> tuple[Any, ...]:
        """Begin another object."""
        self.work.drawing(key).start_object()
        return self.answer(key, *asked)

    def remove_all(self, key: str, *asked: Any) -> tuple[Any, ...]:
        """Remove all marks."""
        self.work.drawing(key).clear()
        return self.answer(key, *asked)

    def answer(self, key: str, model: str, multimask: bool, opacity: float) -> tuple[Any, ...]:
        """Return the picture with masks and marks, the table of objects, and no files."""
        result = self.work.masks(key, model, multimask)
        return self._drawn(key, result, opacity), objects(result), no_files()

    def drawn(self, key: str, model: str, *asked: Any) -> Image.Image:
        """Return masks and marks over the image."""
        multimask, opacity = asked
        return self._drawn(key, self.work.masks(key, model, multimask), opacity)

    def make_files(self, key: str, model: str, multimask: bool, opacity: float) -> tuple[Any, ...]:
        """Return the files of the masks."""
        return take_files(self.work, key, self.work.masks(key, model, multimask))

    def _drawn(self, key: str, result: MasksResult, opacity: float) -> Image.Image:
        return draw_marks(shown(result.draw(opacity)), self.work.drawing(key).marks, self._times(key))

    def _pixel(self, key: str, place: Sequence[float]) -> tuple[int, int]:
        """Return x and y of the pixel of the image that a place of the picture shows."""
        times = self._times(key)
        height, width = self.work.sessions.of(key).upload.pixels.shape[:2]
        x, y = (
            min(max(int(float(value) / times), 0), most - 1) for value, most in zip(place, (width, height), strict=True)
        )
        return x, y

    def _times(self, key: str) -> float:
        """Return the width of the picture by that of the image."""
        height, width = self.work.sessions.of(key).upload.pixels.shape[:2]
        return shown_size(width, height)[0] / width


def objects(result: MasksResult) -> str:
    """Return a table of the objects: color, number and name, expected fit, share of the image."""
    if not len(result):
        return ""
    several = len(set(result.labels)) > 1
    rows = []
    for index, (label, score, mask) in enumerate(zip(result.labels, result.scores, result.masks, strict=True)):
        number = list(result.class_names).index(label) if several else index % MOST_COLORS
        color = "rgb({}, {}, {})".format(*palette(number + 1)[number])
        rows.append(
            f'<tr><td class="name"><span class="swatch" style="background:{color}"></span> {index + 1} '
            f'{escape(label)}</td><td class="share">{100 * mask.mean():.1f} %</td>'
            f'<td class="share">expected IoU {score:.2f}</td></tr>'
        )
    return f'<table class="legend">{"".join(rows)}</table>'
