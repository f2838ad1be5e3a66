"""Visual question answering from the command line: adapt, test in three forms, predict, resume, weigh, refuse."""

import csv
import json
import shlex
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, BertModel

from datamodules.compute_answer_weights import main as compute_answer_weights
from tests.cli_runs import Workspace, refusal
from tests.datamodules.faces.face_files import write_face
from tests.datamodules.questions.question_files import color_rows, write_csv, write_pair, write_questions
from tests.documents import ROOT, commands
from tests.ranks import run_on_ranks
from tests.tiny_vqa import BERT, MAX_LENGTH, make_tokenizer, write_models

LORA = {"rank": 2, "target_modules": ["query", "key", "value"], "exclude_modules": ["text_model", "fusion"]}
DECODER = ["text_model.model.decoder", "shared", "embed_tokens", "lm_head"]
HEADS = ["generative", "classification"]


def component(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def make_workspace(folder: Path, head: str) -> Workspace:
    """Questions about sixteen images, twelve of them to train on, and a config of four steps."""
    write_questions(folder, range(12))
    write_csv(folder / "val.csv", color_rows(range(12, 16)))
    for image in range(12, 16):
        write_face(folder / f"{image}.jpg", image)
    vision, text = write_models(folder)
    network = component(
        "eomt.models.DeterministicVQA", vision_model=vision, text_model=text, answer_head=head, img_size=[28, 28]
    )
    lora = LORA | {"freeze_base_model": True, "trainable_modules": DECODER if head == "generative" else []}
    model = component("eomt.tasks.VisualQuestionAnswering", lr=1e-2, network=network, lora_config=lora)
    csv_files = {name: str(folder / f"{name.partition('_')[0]}.csv") for name in ("train_csv", "val_csv")}
    data = component("datamodules.VQACsv", **csv_files, test_csv=csv_files["val_csv"], batch_size=4, eval_batch_size=3)
    trainer = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, "log_every_n_steps": 2}
    callbacks = ["LoRACheckpoint", "MergeOnSave", "AnswerResults"]
    config = {
        "model": model,
        "data": data,
        "trainer": trainer | {"callbacks": [f"callbacks.{name}" for name in callbacks]},
    }
    workspace = Workspace(folder)
    workspace.config.write_text(yaml.safe_dump(config))
    return workspace


@pytest.fixture(scope="module", params=HEADS)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp(request.param), request.param)
    workspace.fit("vqa")
    return workspace


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def forms(run: Path) -> list[Path]:
    return [only(run, "best_lora_step*.ckpt"), *(path for path in run.glob("best_*") if path.is_dir())]


def figures(run: Path) -> dict[str, float]:
    found = json.loads(only(run / "results", "*_eval.json").read_text())["metrics"]
    return {name: value for name, value in found.items() if value is not None}


def test_a_fit_leaves_adapters_pictures_and_baselines(adapted: Workspace) -> None:
    run = adapted.runs / "vqa"
    found = json.loads((run / "training_summary.json").read_text())
    assert found["metric"] == "val_accuracy"
    assert "all 6 adapters act and learn" in found["audit"]
    assert found["merge_relative_diff"] <= 1e-4
    with (run / "metrics.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    baselines = {"val_blank_accuracy", "val_majority_accuracy", "val_question_only_accuracy"}
    assert baselines | {"val_accuracy", "val_f1", "train_accuracy"} <= set(columns)
    assert sorted(path.name for path in (run / "pictures").glob("val_*")) == [
        f"val_step{step:06d}.png" for step in (0, 2, 4)
    ]


def test_three_forms_give_one_figure(adapted: Workspace) -> None:
    run, found, answers = adapted.runs / "vqa", [], []
    assert len(forms(run)) == 3
    for form in forms(run):
        shutil.rmtree(run / "results", ignore_errors=True)
        adapted.run("test", "--ckpt_path", str(form), "--trainer.precision", "32-true", config=False)
        found.append(figures(run))
        answers.append([row["predicted"] for row in table(only(run / "results", "*_answers.csv"))])
        official = json.loads(only(run / "results", "*_vqav2.json").read_text())
        assert len(official) == 8
        assert set(official[0]) == {"question_id", "answer"}
    for other in (1, 2):
        assert found[other] == pytest.approx(found[0], abs=1e-5)
        assert answers[other] == answers[0]
    measured = {"test_accuracy", "test_accuracy/colour", "test_question_only_accuracy", "test_blank_accuracy"}
    assert measured | {"test_blank_accuracy/colour", "test_majority_accuracy/colour"} <= set(found[0])
    # all answers of validation are among those of training
    assert found[0]["test_oov_rate"] == 0
    network = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["network"]["init_args"]
    assert ("test_ceiling" in found[0]) == (network["answer_head"] == "classification")
    assert sorted(network["answers"]) == ["blue", "green", "no", "red", "yes"]


def test_new_questions_are_answered_without_the_training_data(adapted: Workspace, tmp_path: Path) -> None:
    run = adapted.runs / "vqa"
    shutil.copytree(run, tmp_path / "run")
    for number in range(3):
        write_face(tmp_path / f"{number}.png", 700 + number)
    file = write_csv(
        tmp_path / "new.csv", [[f"{n}.png", "what colour is the circle ?"] for n in range(3)], ["image", "question"]
    )
    gone = adapted.folder / "train.csv"
    gone.rename(gone.with_suffix(".away"))
    try:
        for form in forms(tmp_path / "run"):
            shutil.rmtree(tmp_path / "run" / "predictions", ignore_errors=True)
            adapted.run("predict", "--ckpt_path", str(form), "--data.predict_csv", str(file), config=False)
            rows = table(tmp_path / "run" / "predictions" / "predictions.csv")
            assert len(rows) == 3
        if "generative" in str(adapted.folder):
            # of no run: a decoder needs no vocabulary
            random = ("--audit.allow_random_base", "true")
            adapted.run("predict", "--run_name", "asked", "--data.predict_csv", str(file), *random)
    finally:
        gone.with_suffix(".away").rename(gone)


def test_a_merged_folder_knows_how_long_questions_may_be_without_the_models_it_came_from(
    adapted: Workspace, tmp_path: Path
) -> None:
    merged = next(path for path in forms(adapted.runs / "vqa") if "merged" in path.name)
    folder = tmp_path / "run" / merged.name
    shutil.copytree(merged, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["init_args"] |= {"max_tokens": None, "predict_csv": None}
    for name in ("text_model", "vision_model"):
        config["model"]["init_args"]["network"]["init_args"][name] = str(tmp_path / "gone")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_face(tmp_path / "one.png", 800)
    asked = ("--data.predict_path", str(tmp_path / "one.png"), "--data.predict_question", "is there a circle ?")
    adapted.run("predict", "--run_name", "moved", "--ckpt_path", str(folder), *asked, config=False)
    assert len(table(adapted.runs / "moved" / "predictions" / "predictions.csv")) == 1


def test_one_question_is_asked_of_one_image(adapted: Workspace, tmp_path: Path) -> None:
    write_face(tmp_path / "one.png", 800)
    run = adapted.runs / "vqa"
    shutil.rmtree(run / "predictions", ignore_errors=True)
    # a mapping in YAML
    question = "the shape: is it a circle ?"
    asked = ("--data.predict_path", str(tmp_path / "one.png"), "--data.predict_question", question)
    adapted.run("predict", "--ckpt_path", str(forms(run)[0]), *asked, config=False)
    (row,) = table(run / "predictions" / "predictions.csv")
    assert row["question"] == question


def test_a_fit_that_was_cut_off_ends_where_it_would_have(adapted: Workspace) -> None:
    cut = ("--trainer.callbacks+", '{"class_path": "tests.cli_runs.PowerCut", "init_args": {"step": 2}}')
    with pytest.raises(RuntimeError, match="power cut"):
        adapted.fit("cut", *cut)
    adapted.run("fit", "--run_name", "cut", "--ckpt_path", "latest")
    ends = [adapted.runs / name / "final_lora_step4.ckpt" for name in ("vqa", "cut")]
    whole, resumed = (torch.load(path, weights_only=True) for path in ends)
    assert whole["answers"] == resumed["answers"]
    states = whole["state_dict"], resumed["state_dict"]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_answer_weights_are_made_used_and_bound_to_their_vocabulary(
    adapted: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    file = adapted.folder / "answer_weights.json"
    compute_answer_weights(["--train_csv", str(adapted.folder / "train.csv"), "--output", str(file)])
    weighed = ("--data.answer_weights", str(file))
    runs = [
        adapted.fit("weighed", *weighed),
        adapted.fit("typed", "--data.type_weights", "{colour: 3}"),
        adapted.runs / "vqa",
    ]
    states = [torch.load(run / "final_lora_step4.ckpt", weights_only=True)["state_dict"] for run in runs]
    for first, second in combinations(states, 2):
        assert any(not torch.equal(first[name], second[name]) for name in first)
    content = json.loads(file.read_text())
    content["answers"] = dict(list(content["answers"].items())[1:])
    file.write_text(json.dumps(content))
    assert "its answers do not fit its hash, it was changed or damaged" in refusal(capsys, adapted, "fit", *weighed)
    write_csv(adapted.folder / "other.csv", color_rows(range(1)))
    compute_answer_weights(["--train_csv", str(adapted.folder / "other.csv"), "--output", str(file)])
    assert "belongs to another vocabulary (2 answers; the training split has 5" in refusal(
        capsys, adapted, "fit", *weighed
    )


def test_two_processes_measure_what_one_does(adapted: Workspace) -> None:
    run, found, answers = adapted.runs / "vqa", [], []
    for ranks in (1, 2):
        shutil.rmtree(run / "results", ignore_errors=True)
        arguments = ("--ckpt_path", str(forms(run)[0]), "--trainer.precision", "32-true")
        run_on_ranks(adapted, "test", *arguments, ranks=ranks)
        found.append(figures(run))
        answers.append(table(only(run / "results", "*_answers.csv")))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    assert answers[1] == answers[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.train_csv", "nowhere.csv"], "nowhere.csv"),
        (
            ["--model.network.answers", "[red]"],
            "model.network.answers: 1 answers, but the training data has 5, and they",
        ),
        (["--model.network.vision_model", "nowhere/at/all"], "vision_model"),
        (["--model.network.img_size", "[30, 30]"], "multiple"),
        (["--model.type_head_weight", "-1"], "type_head_weight"),
        (["--model.lora_config.target_modules", "[qurey]"], "query"),
        (["--data.batch_size", "1000"], "batch_size"),
        (
            ["--data.type_weights", "{size: 2}"],
            "unknown type 'size'; must be one of object, count, colour, location, yes/no, or",
        ),
        (
            ["--model.lora_config.trainable_modules", json.dumps(DECODER)],
            "'text_model.model.decoder': the classification head has no decoder; leave it out, as with --model.",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path, "classification")
    assert message in refusal(capsys, workspace, "fit", *arguments)


@pytest.mark.parametrize(
    ("named", "text_model"),
    [
        ("train.csv", "text"),
        ("VQAv2", "text"),
        ("classification", "text"),
        ("classification", "bert"),
        ("model.decoder", "text"),
    ],
)
def test_the_commands_of_the_shipped_config_train(named: str, text_model: str, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, "generative")
    torch.manual_seed(4)
    BertModel(AutoConfig.for_model(**BERT)).save_pretrained(tmp_path / "bert")
    make_tokenizer(tmp_path / "bert")
    (command,) = [text for text in commands(ROOT / "configs" / "vqa_lora.yaml") if named in text]
    fields: dict[str, Any] = {
        "model.network.vision_model": tmp_path / "vision",
        "model.network.text_model": tmp_path / text_model,
        "model.network.img_size": [28, 28],
        "data.num_workers": 0,
        "trainer.max_epochs": 1,
    }
    if named == "VQAv2":
        pairs = write_pair(tmp_path / "pairs", "train", range(8)) | write_pair(tmp_path / "pairs", "val", range(10, 13))
        fields |= {f"data.{name}": file for name, file in pairs.items()}
    else:
        fields |= {"data.train_csv": tmp_path / "train.csv", "data.val_csv": tmp_path / "val.csv"}
        fields["data.language"] = "en"
    fields["config"] = ROOT / "configs" / "vqa_lora.yaml"
    arguments = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    _, _, subcommand, _, _, *rest = shlex.split(command, comments=True)
    workspace.run(subcommand, *arguments[-2:], *rest, *arguments[:-2], "--run_name", "shipped", config=False)
    # three in each of the two blocks of the vision encoder, and as many in both attentions of the decoder's block
    num_adapters = 6 if named in ("classification", "model.decoder") else 12
    assert (
        f"all {num_adapters} adapters act and learn"
        in json.loads((workspace.runs / "shipped" / "training_summary.json").read_text())["audit"]
    )


def test_long_questions_are_truncated_where_the_tokenizer_lies_apart(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, "classification")
    (tmp_path / "apart").mkdir()
    for file in (tmp_path / "text").glob("*token*"):
        file.rename(tmp_path / "apart" / file.name)
    config = tmp_path / "apart" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 10**30}))
    rows = [[0, "what colour is the circle " * 12, "red", 0, 2], *color_rows(range(12))]
    write_csv(tmp_path / "train.csv", rows)
    run = workspace.fit("long", "--model.network.tokenizer", str(tmp_path / "apart"))
    said = (run / "training.log").read_text()
    assert "Data: train: images 12, questions 25" in said
    assert "truncated 1, skipped 0" in said
    saved = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert saved["max_tokens"] == MAX_LENGTH
    new = write_csv(tmp_path / "new.csv", [["0.jpg", "is there " * 99]], ["image", "question"])
    workspace.run("predict", "--ckpt_path", str(forms(run)[0]), "--data.predict_csv", str(new), config=False)
    assert len(table(run / "predictions" / "predictions.csv")) == 1


def test_one_language_decides_which_answers_are_equal(adapted: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """15.9: training took the rules of one language, the metric those of another."""
    error = refusal(capsys, adapted, "fit", "--model.language", "vi", "--data.language", "en")
    assert "model.language: 'vi', but data.language is 'en'" in error


def test_answers_that_cannot_be_written_whole_are_counted_in_the_log(adapted: Workspace) -> None:
    run = adapted.fit("short", "--model.max_answer_tokens", "1", "--trainer.max_steps", "2")
    written = "generative" in str(adapted.folder)
    said = (run / "training.log").read_text()
    assert ("too_long 24" in said) == written


def test_a_type_head_is_set_up_by_its_weight(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, "classification")
    run = workspace.fit("typed", "--model.type_head_weight", "0.1")
    assert "type_head" in json.loads((run / "training_summary.json").read_text())["audit"]
    saved = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["network"]["init_args"]
    assert saved["question_types"] == ["object", "count", "colour", "location", "yes/no"]
