"""What all pages have: an image is sent, a model chosen, an answer shown, compared and taken away."""

import logging
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from PIL import Image

from eomt.demo.models import BASE
from eomt.demo.uploads import MOST_BYTES, MOST_PIXELS
from eomt.demo.work import Work
from eomt.errors import UserError
from eomt.results import Result

log = logging.getLogger("eomt")

Answering = Callable[..., tuple[Any, ...]]

# requests that wait; they are answered one after the other
MOST_WAITING = 16
# seconds between looks at files of pages, and how old they become
CACHE = (120, 1800)
# none is offered to programs
EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "trigger_mode": "always_last"}
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONOSPACED = ("ui-monospace", "Menlo", "Consolas", "monospace")
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#layout { display: grid; grid-template-columns: minmax(280px, 1fr) minmax(0, 2.2fr); grid-template-rows: auto 1fr;
  grid-template-areas: "in out" "more out"; }
#in { grid-area: in; } #out { grid-area: out; } #more { grid-area: more; }
@media (max-width: 768px) {
  #layout { grid-template-columns: minmax(0, 1fr); grid-template-rows: auto; grid-template-areas: "in" "out" "more"; }
}
#about h1 { font-size: 1.4rem; font-weight: 600; margin: 0 0 .2rem; }
#about p { margin: 0 0 .2rem; opacity: .75; }
#about code { font-size: .85em; overflow-wrap: anywhere; }
.refusal { border-left: 4px solid #d55e00; background: #d55e0022; padding: .6rem .8rem; border-radius: 4px; }
.hint { padding: .2rem 0; }
.legend { width: 100%; border-collapse: collapse; border: 0 !important; }
.legend tr, .legend td { border: 0 !important; }
.legend td { padding: .2rem .5rem .2rem 0 !important; }
.legend .swatch { display: inline-block; width: 1em; height: 1em; border-radius: 3px; vertical-align: -.1em; }
.legend .name { max-width: 11em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.legend .bar { width: 45%; }
.legend .bar div { height: .5em; border-radius: 3px; min-width: 1px; }
.legend .share { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
#drag-frame { position: fixed; z-index: 99; pointer-events: none; border: 2px solid #0ff; background: #00ffff22; }
.answer { font-size: 1.3rem; padding: .4rem 0; overflow-wrap: anywhere; }
.answer small { display: block; font-size: .9rem; opacity: .75; }
"""


def theme() -> gr.Theme:
    """Return the look of all pages, with fonts that every machine has: none is fetched."""
    return gr.themes.Default(font=FONTS, font_mono=MONOSPACED)


class Page:
    """The page of a task.

    Attributes:
        script: JavaScript that the page runs.
        title: What the task is called.
        words: What to do first, in a sentence.
        then: What else can be done once there is an answer.

    Args:
        work: What is done with images.
    """

    script: ClassVar[str] = ""
    title: ClassVar[str]
    words: ClassVar[str]
    then: ClassVar[str]

    def __init__(self, work: Work) -> None:
        self.work = work

    def blocks(self) -> gr.Blocks:
        """Return the page."""
        names = self.work.models.names
        with gr.Blocks(title=f"eomt: {self.title}", analytics_enabled=False, delete_cache=CACHE) as blocks:
            gr.HTML(self._about(), elem_id="about")
            with gr.Row(elem_id="layout"):
                with gr.Column(elem_id="in"):
                    limits = f"Image, up to {MOST_BYTES // 2**20} MiB and {MOST_PIXELS // 10**6} Mpx"
                    self.file = gr.File(label=limits, file_types=["image"], height=150, elem_id="upload", buttons=[])
                    self.model = gr.Dropdown(
                        names, value=names[0], label="Model", visible=len(names) > 1, elem_id="model"
                    )
                    self.controls()
                with gr.Column(elem_id="out"):
                    self.message = gr.HTML(hint(self.words), elem_id="message")
                    self.outputs()
                with gr.Column(elem_id="more"):
                    self.details()
                    self.downloads()
            self.wire()
            blocks.unload(self._leave)
        blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
        return blocks

    def controls(self) -> None:
        """Put what is set before an answer below the image."""

    def outputs(self) -> None:
        """Put what shows an answer beside the image."""
        raise NotImplementedError

    def details(self) -> None:
        """Put what says more of an answer below what is set; on a phone it is below the answer."""

    def wire(self) -> None:
        """Say what happens when something is clicked."""
        raise NotImplementedError

    def comparison(self, *before: gr.Tab) -> None:
        """Put a tab in which the answers of two models lie over each other, where there are several.

        Args:
            *before: The other tabs. The second model is asked only while this one is open.
        """
        names = self.work.models.names
        self.is_open = gr.State(False)
        with gr.Tab("Compare", visible=len(names) > 1, elem_id="compare-tab") as tab:
            self.other = gr.Dropdown(names, value=names[-1], label="Left of the line", elem_id="other")
            self.pair = gr.ImageSlider(
                label="Left | right of the line",
                show_label=False,
                interactive=False,
                max_height=700,
                elem_id="pair",
                buttons=["fullscreen"],
            )
        self.opening = tab.select(_yes, None, self.is_open, api_visibility="private")
        for other in before:
            other.select(_no, None, self.is_open, api_visibility="private")

    def compare(self, key: str, other: str, is_open: bool, model: str, *asked: Any) -> tuple[Any, ...]:
        """Return the pictures of another model and of the chosen one, if they are to be seen."""
        if not is_open:
            return (None,)
        return (tuple(self.drawn(key, name, *asked) for name in (other, model)),)

    def drawn(self, key: str, model: str, *asked: Any) -> Image.Image:
        """Return the picture of a model's answer, for a comparison."""
        raise NotImplementedError

    def compare_after(self, earlier: list[Any], asked: list[Any]) -> None:
        """Let the comparison follow on answers.

        Args:
            earlier: What `on` returned.
            asked: What an answer is asked with, the model first.
        """
        self.follow(
            [*earlier, self.opening, self.other.input], self.compare, [self.other, self.is_open, *asked], [self.pair]
        )

    def downloads(self) -> None:
        """Put the button that makes the files of an answer."""
        self.take = gr.Button("Make files of this answer", size="sm", elem_id="take")
        self.files = gr.File(
            label="Files", visible=False, interactive=False, file_count="multiple", elem_id="files", buttons=[]
        )

    def opened(self, answer: Answering) -> Answering:
        """Return a function that takes an image, after the session's key, and then answers as another one does."""

        def found(key: str, path: str | None, *values: Any) -> tuple[Any, ...]:
            self.work.open(key, path)
            return answer(key, *values)

        return found

    def on(self, listeners: list[Any], function: Answering, inputs: list[Any], outputs: list[Any]) -> Any:
        """Let events call a function; where it refuses, its message is shown and its outputs are emptied.

        Args:
            listeners: Events, such as `button.click`.
            function: Takes the session's key and the values of the inputs, returns those of the outputs.
            inputs: Components.
            outputs: Components.

        Returns:
            What other functions may follow.
        """

        def called(request: gr.Request, *values: Any) -> tuple[Any, ...]:
            found, message = answered(function, request, values)
            return (message or hint(self.then), *(found or [None] * len(outputs)))

        return gr.on(listeners, called, inputs, [self.message, *outputs], show_progress_on=outputs[0], **EVENT)

    def follow(self, earlier: list[Any], function: Answering, inputs: list[Any], outputs: list[Any]) -> None:
        """Let a function run after others, or after events of its own; where it refuses, its outputs are emptied.

        Args:
            earlier: What `on` returned, or events.
            function: See `on`; what it refuses was said before.
            inputs: Components.
            outputs: Components.
        """

        def called(request: gr.Request, *values: Any) -> Any:
            found, _ = answered(function, request, values)
            shown = found or (None,) * len(outputs)
            # Gradio takes the one value for one component as it is
            return shown if len(outputs) > 1 else shown[0]

        for event in earlier:
            getattr(event, "then", event)(called, inputs, outputs, **EVENT)

    def _asked(self, model: str) -> list[str]:
        """Return the models that are asked: the chosen one, and, where it has adapters, the base beside it."""
        return list(dict.fromkeys([model, *([BASE] if BASE in self.work.models.names else [])]))

    def _about(self) -> str:
        source, device = self.work.models.first.source, self.work.models.first.device
        place = Path(source)
        shown = "/".join(place.parts[-2:]) if source else "the given configuration"
        return f"<h1>{escape(self.title)}</h1><p><code>{escape(shown)}</code> on {escape(str(device))}</p>"

    def _leave(self, request: gr.Request) -> None:
        self.work.sessions.forget(request.session_hash or "")


def _yes() -> bool:
    return True


def _no() -> bool:
    return False


def answered(function: Answering, request: gr.Request, values: tuple[Any, ...]) -> tuple[tuple[Any, ...] | None, str]:
    """Return what a function returns, or None and the message with which it refuses."""
    try:
        return function(request.session_hash or "", *values), ""
    except UserError as error:
        return None, refusal(str(error))
    except Exception:
        # a message of a library may hold paths of the server
        log.exception("An answer failed")
        return None, refusal("Something went wrong here; the terminal of the server says what")


def refusal(text: str) -> str:
    """Return a message that says what would do."""
    return f'<div class="refusal" role="alert">{escape(text)}</div>'


def hint(text: str) -> str:
    """Return a line that says what to do."""
    return f'<div class="hint">{escape(text)}</div>'


def rows_of_models(answer: str, words: str, answers: dict[str, str], chosen: str) -> str:
    """Return an answer in large letters, and those of all models below it, if there are several.

    Args:
        answer: Of the chosen model.
        words: What stands under it.
        answers: By the names of the models.
        chosen: The model.
    """
    found = f'<div class="answer">{escape(answer)}<small>{escape(words)}</small></div>'
    if len(answers) < 2:
        return found
    rows = [
        f'<tr><td class="name">{"<b>" if name == chosen else ""}{escape(name)}{"</b>" if name == chosen else ""}</td>'
        f"<td>{escape(text)}</td></tr>"
        for name, text in answers.items()
    ]
    return f'{found}<table class="legend">{"".join(rows)}</table>'


def made(files: list[str]) -> Any:
    """Return the list of files, shown."""
    return gr.update(value=files, visible=True)


def no_files() -> Any:
    """Return the list of files, hidden: they are those of an earlier answer."""
    return gr.update(value=None, visible=False)


def take_files(work: Work, key: str, result: Result) -> tuple[Any]:
    """Return the files of a result, made."""
    return (made(work.files(key, result)),)
