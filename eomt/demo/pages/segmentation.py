"""The page of semantic segmentation: classes over the image, their shares, and anomaly maps."""

from dataclasses import replace
from html import escape
from typing import Any, ClassVar

import gradio as gr
import numpy as np
from PIL import Image

from eomt.demo.pages.page import Page, no_files, take_files
from eomt.demo.work import MOST_SHOWN, shown
from eomt.metrics.anomaly_scores import SCORES
from eomt.pictures.colors import palette
from eomt.results import SegmentationResult

# how the scores are called in the literature
SCORE_NAMES = {
    "msp": "MSP: one minus the highest class probability",
    "max_logit": "max logit",
    "entropy": "entropy of the classes",
    "energy": "energy",
    "rba": "RbA: rejected by all classes",
    "void": "the score of no class",
}


class SegmentationPage(Page):
    """The classes of an image's pixels."""

    title: ClassVar[str] = "Semantic segmentation"
    words: ClassVar[str] = "Drop an image: each pixel gets the color of its class."
    then: ClassVar[str] = "The anomaly map shows where the image is unlike all classes."

    def details(self) -> None:
        """Put the legend and the opacity below the image."""
        self.legend = gr.HTML(elem_id="legend")
        self.opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the classes", elem_id="opacity")

    def outputs(self) -> None:
        """Put the tabs: classes, anomalies, comparison."""
        with gr.Tab("Classes") as classes:
            self.picture = gr.Image(
                label="Classes over the image",
                show_label=False,
                interactive=False,
                elem_id="picture",
                buttons=["fullscreen"],
            )
        with gr.Tab("Anomaly map", elem_id="anomaly-tab") as anomalies:
            choices = [(SCORE_NAMES[name], name) for name in SCORES]
            self.score = gr.Dropdown(
                choices,
                value="rba",
                label="Score",
                info="Dark: like the classes. Bright: unlike all of them.",
                elem_id="score",
            )
            self.map = gr.Image(
                label="Anomaly map",
                show_label=False,
                interactive=False,
                elem_id="map",
                buttons=["fullscreen"],
            )
        self.comparison(classes, anomalies)

    def wire(self) -> None:
        """Answer an image at once, and compare after that."""
        asked = [self.model, self.score, self.opacity]
        answered = self.on(
            [self.file.upload, self.file.clear],
            self.opened(self.answer),
            [self.file, *asked],
            [self.picture, self.legend, self.map, self.files],
        )
        changed = self.on(
            [self.model.input, self.score.input],
            self.answer,
            asked,
            [self.picture, self.legend, self.map, self.files],
        )
        painted = self.on([self.opacity.release], self.paint, asked, [self.picture])
        self.compare_after([answered, changed, painted], asked)
        self.on([self.take.click], self.make_files, asked, [self.files])

    def answer(self, key: str, model: str, score: str, opacity: float) -> tuple[Any, ...]:
        """Return classes over the image, legend, anomaly map, and no files."""
        result = self._result(key, model, score)
        small = thinned(result)
        return shown(small.draw(opacity)), legend(result), shown(small.draw_anomaly(score)), no_files()

    def paint(self, key: str, *asked: Any) -> tuple[Any, ...]:
        """Return classes over the image."""
        return (self.drawn(key, *asked),)

    def drawn(self, key: str, model: str, *asked: Any) -> Image.Image:
        """Return classes over the image."""
        score, opacity = asked
        return shown(thinned(self._result(key, model, score)).draw(opacity))

    def make_files(self, key: str, model: str, score: str, opacity: float) -> tuple[Any, ...]:
        """Return the files of the answer."""
        return take_files(self.work, key, self._result(key, model, score))

    def _result(self, key: str, model: str, score: str) -> SegmentationResult:
        return self.work.result(key, model, anomaly=[score])


def thinned(result: SegmentationResult) -> SegmentationResult:
    """Return every so many rows and columns of a result that is far larger than a page shows it.

    Colors of all pixels would take some 100 bytes for each.
    """
    step = max(result.size) // MOST_SHOWN
    if step < 2:
        return result
    maps = {name: map_[::step, ::step] for name, map_ in result.anomaly.items()}
    image = np.ascontiguousarray(result.image[::step, ::step])
    return replace(result, image=image, class_map=result.class_map[::step, ::step], anomaly=maps)


def legend(result: SegmentationResult) -> str:
    """Return the classes of an image with their colors and shares, the largest first."""
    colors = dict(zip(result.class_names, palette(len(result.class_names)), strict=True))
    shares = {name: share for name, share in result.shares().items() if share > 0}
    rows = []
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        color = "rgb({}, {}, {})".format(*colors[name])
        rows.append(
            f'<tr><td class="name"><span class="swatch" style="background:{color}"></span> {escape(name)}</td>'
            f'<td class="bar"><div style="width:{100 * share:.1f}%;background:{color}"></div></td>'
            f'<td class="share">{100 * share:.1f} %</td></tr>'
        )
    return f'<table class="legend">{"".join(rows)}</table>'
