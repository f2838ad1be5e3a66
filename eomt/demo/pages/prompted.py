"""The page of prompted segmentation: a click or a box becomes a mask."""

from html import escape
from typing import Any, ClassVar

import gradio as gr
from PIL import Image

from eomt.demo.pages.page import EVENT, Page, answered, hint, no_files, take_files
from eomt.demo.prompted import BOX, EXCLUDE, INCLUDE, PromptedWork, draw_marks
from eomt.demo.work import shown, shown_size
from eomt.pictures.colors import palette
from eomt.results import MasksResult
from eomt.results.masks import MOST_COLORS

MODES = [("Include", INCLUDE), ("Exclude", EXCLUDE), ("Corner of a box", BOX)]


class PromptedPage(Page):
    """Masks of what is clicked on."""

    title: ClassVar[str] = "Prompted segmentation"
    words: ClassVar[str] = "Drop an image, then click on an object in it: its mask appears."
    then: ClassVar[str] = "Click on an object, or on two corners of a box around it. More clicks refine its mask."
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
            self._on_clicks(asked, told),
        ]
        self.compare_after(events, asked)
        self.on([self.take.click], self.make_files, asked, [self.files])

    def _on_clicks(self, asked: list[Any], told: list[Any]) -> Any:
        """Let a click on the picture be answered; none is left out, however fast they come."""

        def called(event: gr.SelectData, request: gr.Request, mode: str, *values: Any) -> tuple[Any, ...]:
            found, message = answered(self.click, request, (event.index, mode, *values))
            return (message or hint(self.then), *(found or [gr.skip()] * len(told)))

        event = EVENT | {"trigger_mode": "multiple"}
        return self.picture.select(
            called, [self.mode, *asked], [self.message, *told], show_progress_on=self.picture, **event
        )

    def click(self, key: str, place: Any, mode: str, model: str, multimask: bool, opacity: float) -> tuple[Any, ...]:
        """Add a click at a place of the picture, x and y in its pixels, and return what `answer` does."""
        times = self._times(key)
        height, width = self.work.sessions.of(key).upload.pixels.shape[:2]
        x, y = (
            min(max(int(float(value) / times), 0), most - 1) for value, most in zip(place, (width, height), strict=True)
        )
        self.work.drawing(key).click(x, y, mode)
        return self.answer(key, model, multimask, opacity)

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
