"""The quickstart's faces, drawn on the spot: many to be pre-trained on, and a few people with morphs of them."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.checks import check_at_least
from datamodules.common.splits import SPLITS
from datamodules.common.threads import map_in_threads
from datamodules.faces.face_folder import FaceFolder
from datamodules.faces.morph_faces import MorphFaces
from datamodules.generated.data_module import GeneratedData
from datamodules.generated.faces.drawing import Person, draw_person, draw_photo, render_face
from datamodules.generated.faces.morphing import ATTACKS, develop

# streams of random numbers, apart from one another
PEOPLE, PHOTOS, MORPHS, STRANGERS = range(4)


class GeneratedFaces(FaceFolder, GeneratedData):
    """Generated faces of 64 x 64 pixels without labels, each of another person, for pre-training.

    `prepare_data` writes them as PNG files, once. None of the people is in `GeneratedMorphs`.

    Args:
        path: Folder for the files.
        num_images: Faces in all.
        seed: Seed of the faces.
        num_workers: Processes that read files.
        val_fraction: Share of validation.
        **common: Fields of `FaceFolder`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "faces"
    record_file = "generated_faces.json"
    generator_version = 2

    def __init__(
        self,
        path: Path = Path("data/generated_faces"),
        num_images: int = 1000,
        seed: int = 0,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(
            path,
            num_workers=num_workers,
            val_fraction=val_fraction,
            face_boxes=None,
            split_seed=0,
            splits=None,
            **common,
        )
        check_at_least(num_images=(num_images, 2), seed=(seed, 0))
        self.num_images = num_images
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        return {"num_images": self.num_images, "seed": self.seed}

    def write(self, folder: Path) -> None:
        """Draw the faces into a new folder."""

        def draw(number: int) -> None:
            random = np.random.default_rng([self.seed, STRANGERS, number])
            light = render_face(draw_person(random), draw_photo(random))
            develop(light, random).save(folder / f"face_{number:05d}.png", compress_level=1)

        map_in_threads(draw, range(self.num_images), "Drawing faces")


class GeneratedMorphs(MorphFaces, GeneratedData):
    """Generated people of 64 x 64 pixels with several photos each, and morphs of every two of them.

    `prepare_data` writes them as PNG files, once: `train`, `val` and `test`, each with `bonafide` and with
    `morph/blend` (two pictures laid over one another) and `morph/warp` (both brought to the mean shape first). Nobody
    is in two splits. Photos and morphs go through the same camera, whose sharpness and noise vary; what sharpness and
    contrast alone tell is measured by `callbacks.results.morph_baselines`.

    Args:
        path: Folder for the files.
        num_train: People to train on.
        num_val: People of validation.
        num_test: People of test.
        num_photos: Photos of each; there are as many morphs as photos, half of either kind.
        seed: Seed of people, photos and morphs.
        num_workers: Processes that read files.
        **common: Fields of `MorphFaces`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "morphs"
    record_file = "generated_morphs.json"
    generator_version = 2

    def __init__(
        self,
        path: Path = Path("data/generated_morphs"),
        num_train: int = 120,
        num_val: int = 40,
        num_test: int = 40,
        num_photos: int = 4,
        seed: int = 0,
        num_workers: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(
            path,
            num_workers=num_workers,
            identity_pattern=r"id\d+",
            face_boxes=None,
            # the folders say which split a person is in
            val_fraction=0.15,
            test_fraction=0.15,
            split_seed=0,
            num_folds=None,
            fold=0,
            splits=None,
            **common,
        )
        # two people for a morph
        people = {"num_train": (num_train, 2), "num_val": (num_val, 2), "num_test": (num_test, 2)}
        check_at_least(**people, num_photos=(num_photos, 1), seed=(seed, 0))
        self.num_people = {"train": num_train, "val": num_val, "test": num_test}
        self.num_photos = num_photos
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        return {**self.num_people, "num_photos": self.num_photos, "seed": self.seed}

    def write(self, folder: Path) -> None:
        """Draw photos and morphs into a new folder."""
        first = 0
        for split in SPLITS:
            people = list(range(first, first + self.num_people[split]))
            first += len(people)
            self._write_photos(folder / split / "bonafide", people)
            for attack in ATTACKS:
                self._write_morphs(folder / split / "morph" / attack, people, attack)

    def _write_photos(self, folder: Path, people: list[int]) -> None:
        folder.mkdir(parents=True)

        def write(number: int) -> None:
            for photo in range(self.num_photos):
                random = np.random.default_rng([self.seed, PHOTOS, number, photo])
                light = render_face(self._person(number), draw_photo(random))
                develop(light, random).save(folder / f"id{number:04d}_{photo}.png", compress_level=1)

        map_in_threads(write, people, "Drawing photos")

    def _write_morphs(self, folder: Path, people: list[int], attack: str) -> None:
        folder.mkdir(parents=True)

        def write(number: int) -> None:
            one = number % len(people)
            # the next neighbor in the first round, the one after it in the second
            other = (one + 1 + number // len(people) % (len(people) - 1)) % len(people)
            random = np.random.default_rng([self.seed, MORPHS, list(ATTACKS).index(attack), people[0], number])
            light = ATTACKS[attack](self._person(people[one]), self._person(people[other]), draw_photo(random), random)
            name = f"id{people[one]:04d}_id{people[other]:04d}_{number}.png"
            develop(light, random).save(folder / name, compress_level=1)

        map_in_threads(write, range(-(-len(people) * self.num_photos // len(ATTACKS))), "Drawing morphs")

    def _person(self, number: int) -> Person:
        return draw_person(np.random.default_rng([self.seed, PEOPLE, number]))
