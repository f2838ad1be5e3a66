"""The page of visual question answering: a question about an image, and its answer."""

from typing import Any, ClassVar

import gradio as gr
from PIL import Image

from eomt.demo.pages.page import Page, no_files, rows_of_models, take_files
from eomt.demo.work import shown
from eomt.errors import UserError
from eomt.predictors.answers import AnswerPredictor
from eomt.results import AnswerResult

# of the picture, in pixels of the page
HEIGHT = 480
# characters of a question
MOST_CHARACTERS = 300
# of which the tokens are kept
MOST_QUESTIONS = 1000


class QuestionPage(Page):
    """Answers to questions about an image."""

    title: ClassVar[str] = "Questions about images"
    words: ClassVar[str] = "Drop an image, type a question about it, and press Enter."
    then: ClassVar[str] = "Type a question, and press Enter."

    def controls(self) -> None:
        """Put the question below the image."""
        self.question = gr.Textbox(
            label="Question",
            placeholder="What color is the square?",
            max_length=MOST_CHARACTERS,
            elem_id="question",
            submit_btn=False,
        )
        self.ask = gr.Button("Ask", variant="primary", elem_id="ask")

    def outputs(self) -> None:
        """Put the answer over the picture."""
        self.said = gr.HTML(elem_id="answer")
        self.picture = gr.Image(
            label="The image", height=HEIGHT, show_label=False, interactive=False, elem_id="picture", buttons=[]
        )

    def wire(self) -> None:
        """Show an image, and answer a question."""
        asked, told = [self.model, self.question], [self.said, self.files]
        self.on(
            [self.file.upload, self.file.clear],
            self.opened(self.show),
            [self.file, *asked],
            [self.picture, *told],
        )
        self.on([self.question.submit, self.ask.click, self.model.input], self.answer, asked, told)
        self.on([self.take.click], self.make_files, asked, [self.files])

    def show(self, key: str, model: str, question: str | None) -> tuple[Any, ...]:
        """Return the picture; and, where there is a question already, what `answer` does."""
        picture = shown(Image.fromarray(self.work.sessions.of(key).upload.pixels))
        return (picture, *(self.answer(key, model, question) if (question or "").strip() else ("", no_files())))

    def answer(self, key: str, model: str, question: str | None) -> tuple[Any, ...]:
        """Return the answer, those of other models, and no files."""
        found = {name: self._result(key, name, question).answer or "(nothing)" for name in self._asked(model)}
        return rows_of_models(found[model], (question or "").strip(), found, model), no_files()

    def make_files(self, key: str, model: str, question: str | None) -> tuple[Any, ...]:
        """Return the files of the answer."""
        return take_files(self.work, key, self._result(key, model, question))

    def _result(self, key: str, model: str, question: str | None) -> AnswerResult:
        text = (question or "").strip()
        if not text:
            raise UserError("question: it is empty; ask something")
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"question: has {len(text)} characters; at most {MOST_CHARACTERS} are taken")
        found: AnswerResult = self.work.result(key, model, questions=text)
        first = self.work.models.first
        assert isinstance(first, AnswerPredictor)
        if len(first.tokens.ids) > MOST_QUESTIONS:
            first.tokens.ids.clear()
        return found
