"""The quickstart's faces, drawn on the spot: many to be pre-trained on, and a few people with morphs of them."""

from pathlib import Path

import numpy as np

from datamodules.common.splits import SPLITS
from datamodules.common.threads import map_in_threads
from datamodules.faces.face_folder import FaceFolder
from datamodules.faces.morph_faces import MorphFaces
from datamodules.generated.faces.drawing import Person, draw_person, draw_photo, render
from datamodules.generated.faces.morphing import ATTACKS, develop
from datamodules.generated.folder import generate_once
from eomt.errors import UserError

# raised whenever the same settings would draw other pictures
GENERATOR_VERSION = 2
# streams of random numbers, apart from one another
PEOPLE, PHOTOS, MORPHS, STRANGERS = range(4)


class GeneratedFaces(FaceFolder):
    """Generated faces of 64 x 64 pixels without labels, each of another person, for pre-training.

    `prepare_data` writes them as PNG files, once. None of the people is in `GeneratedMorphs`.

    Args:
        path: Folder for the files.
        num_images: Faces in all.
        seed: Seed of the faces.
        batch_size: Training samples per step and process.
        img_size: Height and width of images, one number for a square; the command line fills in the network's.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        val_fraction: Share of validation.
        predict_path: Folder of images, or one image, to predict; null for the images of validation.

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self,
        path: str = "data/generated_faces",
        num_images: int = 1000,
        seed: int = 0,
        batch_size: int = 64,
        img_size: int | tuple[int, int] | None = None,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(
            path=path,
            batch_size=batch_size,
            img_size=img_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_fraction=val_fraction,
            predict_path=predict_path,
        )
        _check_least(num_images=(num_images, 2), seed=(seed, 0))
        self.num_images = num_images
        self.seed = seed

    def prepare_data(self) -> None:
        """Write the faces unless they are there; the folder appears whole or not at all.

        Raises:
            UserError: The folder holds something else, or faces of other settings.
        """
        record = {"version": GENERATOR_VERSION, "num_images": self.num_images, "seed": self.seed}
        generate_once(self.path, "generated_faces.json", record, "faces", self._write)

    def _write(self, folder: Path) -> None:
        def write(number: int) -> None:
            random = np.random.default_rng([self.seed, STRANGERS, number])
            light = render(draw_person(random), draw_photo(random))
            develop(light, random).save(folder / f"face_{number:05d}.png", compress_level=1)

        map_in_threads(write, range(self.num_images), "Drawing faces")


class GeneratedMorphs(MorphFaces):
    """Generated people of 64 x 64 pixels with several photos each, and morphs of every two of them.

    `prepare_data` writes them as PNG files, once: `train`, `val` and `test`, each with `bonafide` and with
    `morph/blend` (two pictures laid over one another) and `morph/warp` (both brought to the mean shape first). Nobody
    is in two splits. Photos and morphs go through the same camera, whose sharpness and noise vary; what sharpness and
    contrast alone tell is measured by `callbacks.results.sharpness_baseline`.

    Args:
        path: Folder for the files.
        num_train: People to train on.
        num_val: People of validation.
        num_test: People of test.
        num_photos: Photos of each; there are as many morphs as photos, half of either kind.
        seed: Seed of people, photos and morphs.
        batch_size: Training samples per step and process.
        img_size: Height and width of images, one number for a square; the command line fills in the network's.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        test_paths: Further sets that are tested, as in `MorphFaces`.
        balanced: Whether training draws both classes equally often.
        augment: Whether training images are changed at random: flip, RandAugment, resize, blur and JPEG.
        num_ops: Changes of RandAugment per image, 0 for none.
        magnitude: Their strength, 0 to 30.
        leave_out_attack: An attack ("blend" or "warp") that is met in test only, where it is the only one.
        predict_path: Folder of images, or one image, to predict; null for what is tested.

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self,
        path: str = "data/generated_morphs",
        num_train: int = 120,
        num_val: int = 40,
        num_test: int = 40,
        num_photos: int = 4,
        seed: int = 0,
        batch_size: int = 32,
        img_size: int | tuple[int, int] | None = None,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        test_paths: dict[str, str] | list[str] | None = None,
        balanced: bool = False,
        augment: bool = True,
        num_ops: int = 2,
        magnitude: int = 9,
        leave_out_attack: str | None = None,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(
            path=path,
            batch_size=batch_size,
            img_size=img_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_paths=test_paths,
            identity_pattern=r"id\d+",
            balanced=balanced,
            augment=augment,
            num_ops=num_ops,
            magnitude=magnitude,
            leave_out_attack=leave_out_attack,
            predict_path=predict_path,
        )
        # two people for a morph
        _check_least(
            num_train=(num_train, 2), num_val=(num_val, 2), num_test=(num_test, 2), num_photos=(num_photos, 1),
            seed=(seed, 0),
        )  # fmt: skip
        self.num_people = {"train": num_train, "val": num_val, "test": num_test}
        self.num_photos = num_photos
        self.seed = seed

    def prepare_data(self) -> None:
        """Write photos and morphs unless they are there; the folder appears whole or not at all.

        Raises:
            UserError: The folder holds something else, or faces of other settings.
        """
        settings = {"num_photos": self.num_photos, "seed": self.seed}
        record = {"version": GENERATOR_VERSION, **self.num_people, **settings}
        generate_once(self.path, "generated_morphs.json", record, "morphs", self._write)

    def _write(self, folder: Path) -> None:
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
                light = render(self._person(number), draw_photo(random))
                develop(light, random).save(folder / f"id{number:04d}_{photo}.png", compress_level=1)

        map_in_threads(write, people, "Drawing photos")

    def _write_morphs(self, folder: Path, people: list[int], attack: str) -> None:
        folder.mkdir(parents=True)

        def write(number: int) -> None:
            one = number % len(people)
            # the next neighbour in the first round, the one after it in the second
            other = (one + 1 + number // len(people) % (len(people) - 1)) % len(people)
            random = np.random.default_rng([self.seed, MORPHS, list(ATTACKS).index(attack), people[0], number])
            light = ATTACKS[attack](self._person(people[one]), self._person(people[other]), draw_photo(random), random)
            name = f"id{people[one]:04d}_id{people[other]:04d}_{number}.png"
            develop(light, random).save(folder / name, compress_level=1)

        map_in_threads(write, range(-(-len(people) * self.num_photos // len(ATTACKS))), "Drawing morphs")

    def _person(self, number: int) -> Person:
        return draw_person(np.random.default_rng([self.seed, PEOPLE, number]))


def _check_least(**fields: tuple[int, int]) -> None:
    for field, (value, least) in fields.items():
        if value < least:
            raise UserError(f"{field}: {value}: must be at least {least}")
