"""VQAv2, in its official JSON files."""

from pathlib import Path
from typing import Any

from datamodules.questions.answer_weights import weights_command
from datamodules.questions.data_module import QuestionDataModule
from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import QuestionRow, QuestionTable
from datamodules.questions.splits import find_leaks, images_of, leak_message, warn_of_shared_images
from datamodules.questions.types import Language, QuestionTypes
from datamodules.questions.vqa_v2_files import read_pair
from eomt.errors import UserError
from eomt.utils.paths import expand

VQA_TYPES = QuestionTypes(("yes/no", "number", "other"), None)


class VQAv2(QuestionDataModule):
    """VQAv2 (Goyal et al. 2017), or other data in its format: questions and annotations with ten answers each.

    Types are the answer types yes/no, number and other. Names of rows are question ids. Images are found by COCO's
    names, as COCO_train2014_000000000009.jpg, or by their number. Without `test_annotations` the test questions serve
    prediction, of which they are the default.

    Args:
        train_questions: JSON of training questions.
        train_annotations: JSON of their answers.
        train_images: Folder of their images.
        val_questions: JSON of validation questions.
        val_annotations: JSON of their answers.
        val_images: Folder of their images.
        test_questions: JSON of test questions; null where there are none.
        test_annotations: JSON of their answers; null where they are not known.
        test_images: Folder of their images.
        language: Language of questions and answers, en, vi or other, whose rules decide which answers are equal; null
            for English rules, those of VQAv2's evaluation. Questions in another language are refused.
        **common: Fields of `QuestionDataModule`.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    def __init__(
        self,
        train_questions: Path,
        train_annotations: Path,
        train_images: Path,
        val_questions: Path,
        val_annotations: Path,
        val_images: Path,
        test_questions: Path | None = None,
        test_annotations: Path | None = None,
        test_images: Path | None = None,
        language: Language | None = None,
        **common: Any,
    ) -> None:
        super().__init__(VQA_TYPES, language, **common)
        if (test_questions is None) != (test_images is None) or (test_annotations and not test_questions):
            raise UserError(
                "test_questions, test_images: one is missing; give both, or neither and no test_annotations"
            )
        self.train_questions = expand(train_questions)
        self.train_annotations = expand(train_annotations)
        self.train_images = expand(train_images)
        self.val_questions = expand(val_questions)
        self.val_annotations = expand(val_annotations)
        self.val_images = expand(val_images)
        self.test_questions = expand(test_questions)
        self.test_annotations = expand(test_annotations)
        self.test_images = expand(test_images)

    def find_tables(self) -> dict[str, QuestionTable]:
        """Return the rows of "train", "val" and "test", the last one empty where its answers are not known.

        Raises:
            UserError: A file cannot be used, a pair does not match, or training images are in another split too.
        """
        train = self._read(self.train_questions, self.train_annotations, self.train_images)
        tables = {
            "train": train,
            "val": self._read(self.val_questions, self.val_annotations, self.val_images),
            "test": QuestionTable([]),
        }
        questions = {"val": self.val_questions}
        if self.test_questions is not None and self.test_annotations is not None and self.test_images is not None:
            tables["test"] = self._read(self.test_questions, self.test_annotations, self.test_images)
            questions["test"] = self.test_questions
        for split, file in questions.items():
            # by file, for to look into all images of COCO takes longer than its splits are likely to be wrong
            if leaks := find_leaks(images_of(train), images_of(tables[split]), same_content=False):
                remedy = "take their questions out of one file, or give the files of another split"
                raise UserError(leak_message(self.train_questions, file, leaks, remedy))
        warn_of_shared_images(images_of(tables["val"]), images_of(tables["test"]), same_content=False)
        return tables

    def rows_to_predict(self) -> list[QuestionRow]:
        """Return the questions to predict: where no field gives them, those of test without answers, or validation."""
        asks_others = self.predict_csv is not None or self.predict_path is not None
        if asks_others or self.test_annotations is not None or self.test_questions is None or self.test_images is None:
            return super().rows_to_predict()
        return self._read(self.test_questions, None, self.test_images).rows

    def weights_command(self) -> str:
        """Return how the answer weights of this training split are made, for messages."""
        fields = {"train_annotations": self.train_annotations, **self._weights_options()}
        if self.on_missing == "skip":
            # the training split is not the whole file
            fields |= {"train_questions": self.train_questions, "train_images": self.train_images, "on_missing": "skip"}
        return weights_command(fields)

    def _read(self, questions: Path, annotations: Path | None, images: Path) -> QuestionTable:
        return read_pair(questions, annotations, ImageFinder(images), self.types, self.on_missing)
