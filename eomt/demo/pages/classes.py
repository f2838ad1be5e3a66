"""The page of image classification: the likeliest classes of a photo."""

from html import escape
from typing import Any, ClassVar

import gradio as gr
from PIL import Image

from eomt.demo.pages.page import Page, no_files, rows_of_models, take_files
from eomt.demo.work import shown
from eomt.results import ClassificationResult

# pixels of the page
HEIGHT = 480
# classes that are listed
MOST_LISTED = 10
COLOR = "#0072b2"


class ClassPage(Page):
    """Which class an image is of."""

    title: ClassVar[str] = "Image classification"
    words: ClassVar[str] = "Drop a photo: the network says what it shows."
    then: ClassVar[str] = "The network sees the middle of the photo."

    def outputs(self) -> None:
        """Put the answer over the picture."""
        self.verdict = gr.HTML(elem_id="answer")
        self.picture = gr.Image(
            label="The photo", height=HEIGHT, show_label=False, interactive=False, elem_id="picture", buttons=[]
        )

    def details(self) -> None:
        """Put the probabilities below what is set."""
        self.classes = gr.HTML(elem_id="classes")

    def wire(self) -> None:
        """Answer an image."""
        told = [self.picture, self.verdict, self.classes, self.files]
        self.on([self.file.upload, self.file.clear], self.opened(self.answer), [self.file, self.model], told)
        self.on([self.model.input], self.answer, [self.model], told)
        self.on([self.take.click], self.make_files, [self.model], [self.files])

    def answer(self, key: str, model: str) -> tuple[Any, ...]:
        """Return the picture, the answer, the probabilities, and no files."""
        found: dict[str, ClassificationResult] = {name: self.work.result(key, name) for name in self._asked(model)}
        result = found[model]
        others = {name: f"{other.label or 'no label'} {other.score:.3f}" for name, other in found.items()}
        said = rows_of_models(result.label or "no label", f"probability {result.score:.3f}", others, model)
        return shown(Image.fromarray(result.image)), said, _bars(result), no_files()

    def make_files(self, key: str, model: str) -> tuple[Any, ...]:
        """Return the files of the answer."""
        return take_files(self.work, key, self.work.result(key, model))


def _bars(result: ClassificationResult) -> str:
    """Return a row for each of the likeliest classes, with its probability as a bar."""
    rows = [
        f'<tr><td class="name">{escape(name)}</td>'
        f'<td class="bar"><div style="width:{100 * value:.1f}%;background:{COLOR}"></div></td>'
        f'<td class="share">{100 * value:.1f} %</td></tr>'
        for name, value in result.ranked()[:MOST_LISTED]
    ]
    return f'<table class="legend">{"".join(rows)}</table>'
