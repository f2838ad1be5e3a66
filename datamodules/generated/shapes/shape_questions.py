"""The quickstart's questions: drawn shapes, what is asked about them and what is true."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.common.splits import SPLITS
from datamodules.common.threads import map_in_threads
from datamodules.generated.folder import generate_once
from datamodules.generated.shapes.questions import ANSWERS, QUESTION_TYPES, Asked, ask
from datamodules.generated.shapes.scenes import Look, make_scene, render
from datamodules.questions.vqa_csv import VQACsv
from eomt.errors import UserError

# raised whenever the same settings would draw other pictures or ask other questions
GENERATOR_VERSION = 1
# streams of random numbers, apart from one another
SCENES, QUESTIONS, PICTURES = range(3)
MOST_QUESTIONS = len(QUESTION_TYPES)


class ShapeQuestions(VQACsv):
    """Generated images of 56 x 56 pixels with one to three coloured shapes, and questions about them.

    `prepare_data` writes `train.csv`, `val.csv`, `test.csv` and `images`, once. The five types of question are shape,
    colour, count, location and yes/no. Whoever does not look at the image is right by chance only: every answer that
    fits a question is equally likely. Both looks show the same scenes for the same seed; each wants a folder of its
    own.

    Args:
        path: Folder for the files.
        num_train: Images to train on.
        num_val: Images of validation.
        num_test: Images of test.
        questions_per_scene: Questions about each image, 1 to 5.
        look: "plain": filled shapes of strong colours on a bright ground, for pre-training. "night": dim outlines on a
            dark, striped and noisy ground.
        seed: Seed of scenes, questions and pictures.
        batch_size: Questions per training step and process.
        eval_batch_size: Questions per step in evaluation.
        num_workers: Processes that read files.
        img_size: Height and width of images, one number for a square; the command line fills in the network's.
        tokenizer: Folder or hub id; the command line fills in the network's.
        answer_weights: JSON file of answer weights, as in `VQACsv`.
        type_weights: Weight of each type in training, as in `VQACsv`.
        predict_csv: Questions to answer, as in `VQACsv`.
        predict_path: Image, or folder of images, to ask `predict_question` about.
        predict_question: The question.

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self,
        path: str = "data/generated_questions",
        num_train: int = 2000,
        num_val: int = 300,
        num_test: int = 300,
        questions_per_scene: int = 4,
        look: Look = "night",
        seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        num_workers: int = 0,
        img_size: int | tuple[int, int] | None = None,
        tokenizer: str | None = None,
        answer_weights: str | None = None,
        type_weights: dict[str, float] | None = None,
        predict_csv: str | None = None,
        predict_path: str | None = None,
        predict_question: str | None = None,
    ) -> None:
        folder = Path(path)
        super().__init__(
            train_csv=str(folder / "train.csv"),
            val_csv=str(folder / "val.csv"),
            test_csv=str(folder / "test.csv"),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            img_size=img_size,
            tokenizer=tokenizer,
            question_types=list(QUESTION_TYPES),
            answer_weights=answer_weights,
            type_weights=type_weights,
            predict_csv=predict_csv,
            predict_path=predict_path,
            predict_question=predict_question,
            answers=list(ANSWERS),
        )
        counts = {"num_train": num_train, "num_val": num_val, "num_test": num_test, "seed": seed}
        for field, value in counts.items():
            least = 0 if field == "seed" else 1
            if value < least:
                raise UserError(f"{field}: {value}: must be at least {least}")
        if not 1 <= questions_per_scene <= MOST_QUESTIONS:
            raise UserError(f"questions_per_scene: {questions_per_scene}: must be 1 to {MOST_QUESTIONS}")
        self.folder = folder
        self.num_scenes = {"train": num_train, "val": num_val, "test": num_test}
        self.questions_per_scene = questions_per_scene
        self.look = look
        self.seed = seed

    def prepare_data(self) -> None:
        """Write images and questions unless they are there; the folder appears whole or not at all.

        Raises:
            UserError: The folder holds something else, or questions of other settings.
        """
        settings = {"questions_per_scene": self.questions_per_scene, "look": self.look, "seed": self.seed}
        record = {"version": GENERATOR_VERSION, **self.num_scenes, **settings}
        generate_once(self.folder, "generated_questions.json", record, "questions", self._write)

    def _write(self, folder: Path) -> None:
        (folder / "images").mkdir()
        for split in SPLITS:

            def write(number: int, split: str = split) -> list[Asked]:
                return self._write_scene(folder / _name(split, number), split, number)

            asked = map_in_threads(write, range(self.num_scenes[split]), f"Drawing {split}")
            with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["image", "question", "answer", "question_type"])
                for number, about_one in enumerate(asked):
                    for one in about_one:
                        table.writerow([_name(split, number), one.question, one.answer, one.question_type])

    def _write_scene(self, file: Path, split: str, number: int) -> list[Asked]:
        """Draw a scene and return what is asked about it."""
        scenes, questions, pictures = (
            np.random.default_rng([self.seed, stream, SPLITS.index(split), number])
            for stream in (SCENES, QUESTIONS, PICTURES)
        )
        scene = make_scene(scenes)
        Image.fromarray(render(scene, self.look, pictures)).save(file, compress_level=1)
        return ask(scene, self.questions_per_scene, questions)


def _name(split: str, number: int) -> str:
    return f"images/{split}_{number:05d}.png"
