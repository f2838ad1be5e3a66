"""What a page does with an image, apart from how it looks."""

from pathlib import Path
from typing import Any

from PIL import Image

from eomt.demo.models import Models
from eomt.demo.sessions import Session, Sessions
from eomt.demo.uploads import read_upload
from eomt.errors import UserError
from eomt.results import Result

# of the longer side of a picture in a page
LEAST_SHOWN, MOST_SHOWN = 960, 1600


class Work:
    """A model, and the images of those who ask it.

    Args:
        models: The model and other adapters of its base.
        folder: Of all that is sent and made, which nothing else uses.
    """

    def __init__(self, models: Models, folder: Path) -> None:
        self.models, self.folder = models, folder
        self.sessions = Sessions(folder / "files")

    def open(self, key: str, path: str | None) -> Session:
        """Return a new session with an image that was sent.

        Raises:
            UserError: If it cannot be used.
        """
        self.sessions.forget(key)
        if path is None:
            raise UserError("image: none; send one")
        return self.sessions.start(key, read_upload(Path(path), self.folder, self.models.first.conversion))

    def result(self, key: str, model: str, **asked: Any) -> Any:
        """Return the answer of a model about the image of a page, made once for what is asked.

        Args:
            key: Of the session.
            model: One of `models.names`.
            **asked: Arguments of the predictor's `predict`.

        Raises:
            UserError: If there is no image, or it cannot be asked so.
        """
        session = self.sessions.of(key)
        question = (model, *sorted((name, repr(value)) for name, value in asked.items()))
        if question not in session.results:
            with self.models.using(model) as predictor:
                found: Result = predictor.predict(session.upload.image, **asked)  # type: ignore[attr-defined]
            found.name = session.upload.name
            session.results[question] = found
        return session.results[question]

    def files(self, key: str, result: Result) -> list[str]:
        """Write a result as PNG, table and, where it has masks, COCO JSON; return the paths."""
        session = self.sessions.of(key)
        session.folder.mkdir(parents=True, exist_ok=True)
        stem = Path(session.upload.name).stem or "image"
        written = [result.save(session.folder / f"{stem}.{suffix}") for suffix in ("png", "csv")]
        if result.categories():
            written.append(result.save(session.folder / f"{stem}.json"))
        return [str(path) for path in written]


def shown_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height at which a page shows a picture: a large one shrunk, a small one enlarged."""
    longer = max(width, height)
    if longer > MOST_SHOWN:
        return max(1, round(width * MOST_SHOWN / longer)), max(1, round(height * MOST_SHOWN / longer))
    times = max(1, LEAST_SHOWN // longer)
    return width * times, height * times


def shown(picture: Image.Image) -> Image.Image:
    """Return a picture in a size that a page shows well; pixels of a small one become squares."""
    size = shown_size(*picture.size)
    if size == picture.size:
        return picture
    is_shrunk = size[0] < picture.width
    return picture.resize(size, Image.Resampling.BOX if is_shrunk else Image.Resampling.NEAREST)
