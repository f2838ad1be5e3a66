"""The pages of instance and panoptic segmentation: what was found over the image, and a list of it."""

from html import escape
from typing import Any, ClassVar

import gradio as gr
from PIL import Image

from eomt.demo.pages.page import Page, no_files, take_files
from eomt.demo.work import shown
from eomt.predictors.objects import InstancePredictor, PanopticPredictor
from eomt.results import InstanceResult, PanopticResult

# of the list below the image
MOST_ROWS = 100


class ObjectPage(Page):
    """What was found in an image, one by one."""

    title: ClassVar[str] = "Instance segmentation"
    words: ClassVar[str] = "Drop an image: each object is outlined, with its class and how sure that is."
    then: ClassVar[str] = "With a lower threshold more objects are shown, and more of them are wrong."
    opacity_at_first: ClassVar[float] = 0.35

    def controls(self) -> None:
        """Put the threshold below the image."""
        first = self.work.models.first
        assert isinstance(first, InstancePredictor | PanopticPredictor)
        self.threshold = gr.Slider(0, 1, first.score_threshold, step=0.01, label="Least score", elem_id="threshold")

    def details(self) -> None:
        """Put the list and the opacity below the image."""
        self.legend = gr.HTML(elem_id="legend")
        self.opacity = gr.Slider(
            0, 1, self.opacity_at_first, step=0.05, label="Opacity of the colors", elem_id="opacity"
        )

    def outputs(self) -> None:
        """Put the tabs: what was found, comparison."""
        with gr.Tab("Found") as found:
            self.picture = gr.Image(
                label="What was found, over the image",
                show_label=False,
                interactive=False,
                elem_id="picture",
                buttons=["fullscreen"],
            )
        self.comparison(found)

    def wire(self) -> None:
        """Answer an image at once, and again where the threshold moves."""
        asked, told = [self.model, self.threshold, self.opacity], [self.picture, self.legend, self.files]
        events = [
            self.on([self.file.upload, self.file.clear], self.opened(self.answer), [self.file, *asked], told),
            self.on([self.model.input, self.threshold.release], self.answer, asked, told),
            self.on([self.opacity.release], self.paint, asked, [self.picture]),
        ]
        self.compare_after(events, asked)
        self.on([self.take.click], self.make_files, asked, [self.files])

    def answer(self, key: str, model: str, threshold: float, opacity: float) -> tuple[Any, ...]:
        """Return what was found over the image, a list of it, and no files."""
        result = self._result(key, model, threshold)
        return shown(result.draw(opacity)), listed_rows(result), no_files()

    def paint(self, key: str, *asked: Any) -> tuple[Any, ...]:
        """Return what was found over the image."""
        return (self.drawn(key, *asked),)

    def drawn(self, key: str, model: str, *asked: Any) -> Image.Image:
        """Return what was found over the image."""
        threshold, opacity = asked
        return shown(self._result(key, model, threshold).draw(opacity))

    def make_files(self, key: str, model: str, threshold: float, opacity: float) -> tuple[Any, ...]:
        """Return the files of the answer."""
        return take_files(self.work, key, self._result(key, model, threshold))

    def _result(self, key: str, model: str, threshold: float) -> InstanceResult | PanopticResult:
        found: InstanceResult | PanopticResult = self.work.result(key, model, threshold=threshold)
        return found


class SegmentPage(ObjectPage):
    """Things and stuff of an image."""

    title: ClassVar[str] = "Panoptic segmentation"
    words: ClassVar[str] = "Drop an image: each thing and each kind of stuff gets a color."
    then: ClassVar[str] = "With a lower threshold queries take part that are less sure of their class."
    opacity_at_first: ClassVar[float] = 0.6


def listed_rows(result: InstanceResult | PanopticResult) -> str:
    """Return what was found as a table: class, score, and share of the image."""
    rows = result.rows()
    total = result.size[0] * result.size[1]
    cells = [
        f'<tr><td class="name">{escape(row["class"])}</td><td>{row["score"]:.2f}</td>'
        f'<td class="share">{100 * row["pixels"] / total:.1f} %</td></tr>'
        for row in rows[:MOST_ROWS]
    ]
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    return f'<table class="legend">{"".join(cells)}</table>{more}' if rows else "<p>Nothing above the threshold.</p>"
