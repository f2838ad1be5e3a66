"""The task of classification: what is trained and mixed, watched and logged."""

from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Trainer

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.tasks import ImageClassification
from eomt.tasks.configuration import Configuration
from tests.tiny_classification import make_classifier


def make_task(network: dict[str, Any] | None = None, lora: bool = True, **arguments: Any) -> ImageClassification:
    config = LoRAConfig(rank=2, target_modules=["attention"], freeze_base_model=True) if lora else None
    return ImageClassification(make_classifier(**(network or {})), config, **arguments)


def test_the_new_classifier_is_trained_beside_adapters_without_being_named() -> None:
    groups = {group["name"] for group in make_task().parameter_groups()}
    assert groups == {"adapters", "heads", "heads_no_decay"}
    assert make_task().audit(make_task().synthetic_batch(4)).faults == ()


@pytest.mark.parametrize("several", [False, True])
def test_the_audit_and_the_merge_see_unmixed_images(several: bool) -> None:
    task = make_task({"multi_label": several}, mixup=0.4, cutmix=1.0).train()
    batch = task.synthetic_batch(6)
    assert len({task.audit_losses(batch)["loss"].item() for _ in range(3)}) == 1
    assert task.eval().losses(batch)[0]["loss"].item() == pytest.approx(task.audit_losses(batch)["loss"].item())
    assert task.outputs(task.network, batch).shape == (6, 3)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_are_mixed_by_seed_and_step_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(**{kind: 1.0}).train()
    batch = task.synthetic_batch(6)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again = task._mixed(batch), task._mixed(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["image"], again["image"])
    monkeypatch.setattr(ImageClassification, "global_step", 1)
    assert not torch.equal(task._mixed(batch)["image"], first["image"])
    torch.testing.assert_close(first["label"].sum(1), torch.ones(6))
    # shares of the labels are those of the images, each with the one before it
    share = float(first["label"][0, batch["label"][0]])
    pixels = batch["image"].float() / 255
    other = pixels.roll(1, 0)
    if kind == "mixup":
        torch.testing.assert_close(first["image"], share * pixels + (1 - share) * other)
    else:
        own = (first["image"] == pixels).all(1).float().mean((1, 2))
        torch.testing.assert_close(own, torch.full((6,), share), atol=1e-6, rtol=0)


def test_what_selects_the_best_step() -> None:
    assert (make_task().monitor, make_task().mode, make_task().file_metrics) == ("val_f1", "max", ("f1", "accuracy"))
    assert make_task(watch="accuracy").file_metrics == ("accuracy", "f1")
    several = make_task({"multi_label": True})
    assert (several.monitor, several.file_metrics) == ("val_map", ("map", "f1"))
    with pytest.raises(UserError, match="watch: map; must be f1, accuracy, auroc where images have one class each"):
        make_task(watch="map")
    with pytest.raises(UserError, match="watch: accuracy; must be map, f1, auroc where images have several labels"):
        make_task({"multi_label": True}, watch="accuracy")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mixup": -1.0}, "mixup: -1.0; must be at least 0"),
        ({"class_weights": "even"}, "class_weights: 'even'; must be balanced, or a number for each class"),
        ({"class_weights": [1.0, 2.0]}, r"class_weights: \[1\.0, 2\.0\]; must be a number above 0 for each of 3"),
        ({"label_smoothing": 1.0}, "label_smoothing: 1.0"),
    ],
)
def test_impossible_values_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_task(**arguments)


class Data:
    """Data with labels, as a configuration builds it."""

    from_network: ClassVar[dict[str, str]] = {}
    num_classes, class_names = 3, ["a", "b", "c"]

    def __init__(self, several: bool) -> None:
        self.several = several

    def found_arguments(self) -> dict[str, Any]:
        return {}

    def is_multi_label(self) -> bool:
        return self.several

    def label_counts(self) -> list[int]:
        return [1, 2, 3]

    def plain_images(self, split: str, most: int | None) -> Any:
        return iter(())


@pytest.mark.parametrize("several", [False, True])
def test_whether_images_have_several_labels_comes_from_the_data(several: bool) -> None:
    def configured(given: bool | None, trains: bool = True) -> Any:
        network = {"num_classes": None, "multi_label": given}
        found = Configuration({}, network, ImageClassification.network_class, {"several": several}, Data, trains=trains)  # type: ignore[arg-type]
        ImageClassification.configure(found)
        return network

    assert configured(None) == {"num_classes": 3, "multi_label": several}
    with pytest.raises(UserError, match=f"multi_label: {not several}, but the data has"):
        configured(not several)
    # of a saved run, whose data may be gone
    assert configured(not several, trains=False)["multi_label"] is not several


def logged(task: ImageClassification, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The figures of a validation of two batches, of which one image is padding."""
    found: dict[str, float] = {}
    task.trainer = Trainer(logger=False, enable_checkpointing=False)
    monkeypatch.setattr(task, "log", lambda name, value, **_: found.update({name: float(value)}))
    for _ in range(2):
        batch = task.synthetic_batch(4)
        batch["name"][-1] = ""
        task.validation_step(batch, 0)
    task.on_validation_epoch_end()
    return found


def test_padding_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task().eval()
    monkeypatch.setattr("eomt.tasks.image_classification.class_names_of", lambda trainer: ["a", "b", "c"])
    found = logged(task, monkeypatch)
    batch = task.synthetic_batch(4)
    said = task.network(batch["image"]).argmax(1)[:3]
    assert found["val_accuracy"] == pytest.approx(float((said == batch["label"][:3]).float().mean()))
    logits = task.network(batch["image"])[:3]
    assert found["val_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, batch["label"][:3])))
    assert {"val_f1", "val_auroc", "val_ece", "val_f1/a"} <= found.keys()
    # the next validation begins anew
    assert logged(task, monkeypatch) == found


def test_the_loss_of_validation_is_neither_weighted_nor_smoothed() -> None:
    task = make_task(class_weights=[1.0, 5.0, 20.0], label_smoothing=0.3).eval()
    batch = task.synthetic_batch(6)
    with torch.no_grad():
        task.validation_step(batch, 0)
        logits = task.network(batch["image"])
    expected = float(torch.nn.functional.cross_entropy(logits, batch["label"]))
    assert float(task.evaluation_loss.compute()) == pytest.approx(expected)
    assert float(task.losses(batch)[0]["loss"]) != pytest.approx(expected, rel=1e-2)


def test_what_is_logged_of_training_is_the_share_of_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageClassification, "ends_logged_step", lambda self: False)
    task = make_task({"multi_label": True})
    # a label is answered from probability 0.5 on, which is a logit of 0
    task.training_metrics({"label": torch.tensor([[1.0, 1.0, 0.0]])}, torch.tensor([[0.2, -0.2, 0.2]]))
    assert float(task.train_accuracy.compute()) == pytest.approx(1 / 3)
    mixed = make_task(mixup=0.5)
    mixed.training_metrics({"label": torch.tensor([0])}, torch.tensor([[1.0, 0.0, 0.0]]))
    assert not mixed.train_accuracy.update_called
