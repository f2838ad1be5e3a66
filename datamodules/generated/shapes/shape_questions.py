"""The quickstart's questions: drawn shapes, what is asked about them and what is true."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.common.checks import check_at_least
from datamodules.common.splits import SPLITS
from datamodules.common.threads import map_in_threads
from datamodules.generated.data_module import GeneratedData
from datamodules.generated.shapes.questions import ANSWERS, QUESTION_TYPES, SceneQuestion, make_questions
from datamodules.generated.shapes.scenes import Look, make_scene, render_shapes
from datamodules.questions.answer_weights import weights_command
from datamodules.questions.data_module import QuestionDataModule
from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import QuestionTable, read_questions
from datamodules.questions.types import QuestionTypes
from eomt.errors import UserError
from eomt.utils.paths import expand

# streams of random numbers, apart from one another
SCENES, QUESTIONS, PICTURES = range(3)
MOST_QUESTIONS = len(QUESTION_TYPES)


class ShapeQuestions(QuestionDataModule, GeneratedData):
    """Generated images of 56 x 56 pixels with one to three colored shapes, and questions about them.

    `prepare_data` writes `train.csv`, `val.csv`, `test.csv` and `images`, once, as `VQACsv` reads them. The five types
    of question are shape, colour, count, location and yes/no. Whoever does not look at the image is right by chance
    only: every answer that fits a question is equally likely. Both looks show the same scenes for the same seed; each
    wants a folder of its own.

    Args:
        path: Folder for the files.
        num_train: Images to train on.
        num_val: Images of validation.
        num_test: Images of test.
        questions_per_scene: Questions about each image, 1 to 5.
        look: "plain": filled shapes of strong colors on a bright ground, for pre-training. "night": dim outlines on a
            dark, striped and noisy ground.
        seed: Seed of scenes, questions and pictures.
        batch_size: Questions per training step and process.
        eval_batch_size: Questions per step in evaluation.
        **common: Fields of `QuestionDataModule`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "questions"
    record_file = "generated_questions.json"

    def __init__(
        self,
        path: Path = Path("data/generated_questions"),
        num_train: int = 2000,
        num_val: int = 300,
        num_test: int = 300,
        questions_per_scene: int = 4,
        look: Look = "night",
        seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        **common: Any,
    ) -> None:
        super().__init__(
            QuestionTypes(QUESTION_TYPES, "en"),
            "en",
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            answers=list(ANSWERS),
            min_answer_count=1,
            on_missing="error",
            **common,
        )
        check_at_least(num_train=(num_train, 1), num_val=(num_val, 1), num_test=(num_test, 1), seed=(seed, 0))
        if not 1 <= questions_per_scene <= MOST_QUESTIONS:
            raise UserError(f"questions_per_scene: {questions_per_scene}; must be 1 to {MOST_QUESTIONS}")
        self.path = expand(path)
        self.num_scenes = {"train": num_train, "val": num_val, "test": num_test}
        self.questions_per_scene = questions_per_scene
        self.look = look
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        settings = {"questions_per_scene": self.questions_per_scene, "look": self.look, "seed": self.seed}
        return {**self.num_scenes, **settings}

    def find_tables(self) -> dict[str, QuestionTable]:
        """Return the rows of "train", "val" and "test".

        Raises:
            UserError: A file cannot be used.
        """
        find_image = ImageFinder(self.path)
        return {split: read_questions(self.path / f"{split}.csv", find_image, self.types) for split in SPLITS}

    def weights_command(self) -> str:
        """Return how the answer weights of this training split are made, for messages."""
        return weights_command({"train_csv": self.path / "train.csv", **self._weights_options()})

    def write(self, folder: Path) -> None:
        """Draw the images into a new folder, and write the tables of questions."""
        (folder / "images").mkdir()
        for split in SPLITS:

            def draw(number: int, split: str = split) -> list[SceneQuestion]:
                return self._write_scene(folder / _name(split, number), split, number)

            questions = map_in_threads(draw, range(self.num_scenes[split]), f"Drawing {split}")
            with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["image", "question", "answer", "question_type"])
                for number, about_one in enumerate(questions):
                    for one in about_one:
                        table.writerow([_name(split, number), one.question, one.answer, one.question_type])

    def _write_scene(self, file: Path, split: str, number: int) -> list[SceneQuestion]:
        """Draw a scene and return what is asked about it."""
        scenes, questions, pictures = (
            np.random.default_rng([self.seed, stream, SPLITS.index(split), number])
            for stream in (SCENES, QUESTIONS, PICTURES)
        )
        scene = make_scene(scenes)
        Image.fromarray(render_shapes(scene, self.look, pictures)).save(file, compress_level=1)
        return make_questions(scene, self.questions_per_scene, questions)


def _name(split: str, number: int) -> str:
    return f"images/{split}_{number:05d}.png"
