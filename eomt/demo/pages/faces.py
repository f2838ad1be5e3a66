"""The pages for faces: whether one is a morph, and what a masked autoencoder makes of what it does not see."""

from dataclasses import replace
from typing import Any, ClassVar

import gradio as gr
from PIL import Image, ImageDraw

from datamodules.faces.boxes import face_window
from eomt.demo.pages.page import Page, no_files, rows_of_models, take_files
from eomt.demo.work import shown
from eomt.predictors.faces import MorphPredictor
from eomt.results import MorphResult, ReconstructionResult

WINDOW = (0, 255, 255)
LINE = 3
# pixels of the page
HEIGHT = 480
# where validation chose none
MIDDLE = 0.5
MOST_SEEDS = 2**31 - 1


class MorphPage(Page):
    """Whether a face is a morph."""

    title: ClassVar[str] = "Face morph detection"
    words: ClassVar[str] = "Drop a passport photo: the score says how much it looks like a morph of two faces."
    then: ClassVar[str] = "The network sees what is inside the line; the threshold divides morphs from the rest."

    def controls(self) -> None:
        """Put the threshold below the image."""
        chosen = self._chosen()
        words = "Not chosen by a validation: 0.5 is the middle and no more."
        if chosen is not None:
            words = f"Validation chose {chosen:.3f}."
        self.threshold = gr.Slider(
            0,
            1,
            MIDDLE if chosen is None else _rounded(chosen),
            step=0.001,
            label="Threshold",
            info=words,
            elem_id="threshold",
        )

    def outputs(self) -> None:
        """Put the verdict over the picture."""
        self.verdict = gr.HTML(elem_id="answer")
        self.picture = gr.Image(
            label="The network sees what is inside the line",
            height=HEIGHT,
            show_label=False,
            interactive=False,
            elem_id="picture",
            buttons=[],
        )

    def wire(self) -> None:
        """Answer an image, and again where the threshold moves."""
        asked, told = [self.model, self.threshold], [self.picture, self.verdict, self.files]
        self.on([self.file.upload, self.file.clear], self.opened(self.answer), [self.file, *asked], told)
        self.on([self.model.input, self.threshold.release], self.answer, asked, told)
        self.on([self.take.click], self.make_files, asked, [self.files])

    def answer(self, key: str, model: str, threshold: float) -> tuple[Any, ...]:
        """Return the picture with what is seen of it, the verdict, and no files."""
        found = {name: self._result(key, name, threshold) for name in self._asked(model)}
        result = found[model]
        words = "a morph" if result.is_morph else "bona fide: no morph"
        if not result.processed:
            words = "no face: nothing but one color, or noise"
        said = (
            f"score {result.score:.3f}, {'at or above' if result.is_morph else 'below'} the threshold {threshold:.3f}"
        )
        others = {name: f"score {other.score:.3f}" for name, other in found.items()}
        return self._seen(result), rows_of_models(words, said, others, model), no_files()

    def make_files(self, key: str, model: str, threshold: float) -> tuple[Any, ...]:
        """Return the files of the answer."""
        return take_files(self.work, key, self._result(key, model, threshold))

    def _chosen(self) -> float | None:
        first = self.work.models.first
        assert isinstance(first, MorphPredictor)
        return first.threshold

    def _result(self, key: str, model: str, threshold: float) -> MorphResult:
        chosen = self._chosen()
        # the slider shows the chosen one rounded, and a score may lie between
        exact = chosen if chosen is not None and threshold == _rounded(chosen) else threshold
        found: MorphResult = self.work.result(key, model)
        return replace(found, threshold=exact)

    def _seen(self, result: MorphResult) -> Image.Image:
        first = self.work.models.first
        assert isinstance(first, MorphPredictor)
        window = face_window(result.size, None, first.model.img_size)
        found = shown(Image.fromarray(result.image)).copy()
        left, top, right, bottom = (round(side * found.width / result.size[1]) for side in window)
        ImageDraw.Draw(found).rectangle((left, top, right - 1, bottom - 1), outline=WINDOW, width=LINE)
        return found


def _rounded(threshold: float) -> float:
    return round(threshold, 3)


class ReconstructionPage(Page):
    """What a masked autoencoder makes of the part of an image that it sees."""

    title: ClassVar[str] = "Masked autoencoder"
    words: ClassVar[str] = "Drop an image: most of it is hidden, and the network paints what it expects there."
    then: ClassVar[str] = "Another seed hides other parts."

    def controls(self) -> None:
        """Put the seed of the mask below the image."""
        self.seed = gr.Number(0, label="Seed of what is hidden", precision=0, minimum=0, elem_id="seed")
        self.next = gr.Button("Hide other parts", size="sm", elem_id="next")

    def outputs(self) -> None:
        """Put what the network saw beside what it made of it."""
        with gr.Tab("Reconstruction") as reconstruction, gr.Row():
            self.masked = gr.Image(label="What it sees", interactive=False, elem_id="masked", buttons=[])
            self.picture = gr.Image(label="What it makes of it", interactive=False, elem_id="picture", buttons=[])
            self.whole = gr.Image(label="The image", interactive=False, elem_id="whole", buttons=[])
        self.comparison(reconstruction)

    def wire(self) -> None:
        """Answer an image, and again with another mask."""
        asked, told = [self.model, self.seed], [self.masked, self.picture, self.whole, self.files]
        events = [
            self.on([self.file.upload, self.file.clear], self.opened(self.answer), [self.file, *asked], told),
            self.on([self.model.input, self.seed.change], self.answer, asked, told),
        ]
        self.compare_after(events, asked)
        self.on([self.take.click], self.make_files, asked, [self.files])
        self.next.click(_next_seed, [self.seed], [self.seed], api_visibility="private")

    def answer(self, key: str, model: str, seed: float | None) -> tuple[Any, ...]:
        """Return what was seen, what was made of it, the image, and no files."""
        result = self._result(key, model, seed)
        pictures = (result.masked, result.reconstruction, result.image)
        return (*(shown(Image.fromarray(array)) for array in pictures), no_files())

    def drawn(self, key: str, model: str, *asked: Any) -> Image.Image:
        """Return the reconstruction."""
        (seed,) = asked
        return shown(Image.fromarray(self._result(key, model, seed).reconstruction))

    def make_files(self, key: str, model: str, seed: float | None) -> tuple[Any, ...]:
        """Return the files of the answer."""
        return take_files(self.work, key, self._result(key, model, seed))

    def _result(self, key: str, model: str, seed: float | None) -> ReconstructionResult:
        return self.work.result(key, model, seed=min(max(int(seed or 0), 0), MOST_SEEDS))


def _next_seed(seed: float | None) -> int:
    return (int(seed or 0) + 1) % MOST_SEEDS
