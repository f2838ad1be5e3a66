"""The texts of an exported folder: programs that need NumPy, Pillow and onnxruntime, and a page to read."""

README = """# {network}: {task}

Exported from `{source}`. `export.json` says what was compared with PyTorch, and with which differences.

| file | | name | dtype | shape |
|---|---|---|---|---|
{tensors}

Images are {values}uint8, from 0 to 255, and {resized}: the graph scales and normalizes them itself
(`preprocessor_config.json` has its mean and deviation).

- `python example.py IMAGE` runs it (ONNX of RGB; needs NumPy, Pillow and onnxruntime); its first line says what else it
  takes.
- `eomt.load(FOLDER).predict(IMAGE)` runs it with what `eomt` does before and after; questions and prompts come second.
- `trtexec --onnx=FILE` builds an engine of TensorRT on the GPU that will run it.
"""

SEGMENTATION = '''"""Segment an image: python example.py IMAGE [CLASSES.png]."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).parent
record = json.loads((folder / "export.json").read_text())
height, width = record["img_size"]
names = record["settings"]["class_names"]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))  # (H, W, 3), uint8
batch = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]  # (1, 3, H, W)
scores = session.run(["scores"], {"image": batch})[0][0]  # (C + 1, H, W); the last is "no object"
classes = scores[:-1].argmax(0).astype(np.uint8)  # (H, W)

shares = np.bincount(classes.ravel(), minlength=len(names)) / classes.size
print(json.dumps({name: round(float(share), 4) for name, share in zip(names, shares)}))
if len(sys.argv) > 2:
    Image.fromarray(classes).resize(image.size, Image.Resampling.NEAREST).save(sys.argv[2])
'''

# the beginning of both examples of queries
QUERIES = """
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).parent
record = json.loads((folder / "export.json").read_text())
(height, width), settings = record["img_size"], record["settings"]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
scale = min(height / image.height, width / image.width)
fitted = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
padded = np.zeros((height, width, 3), np.uint8)
padded[: fitted.height, : fitted.width] = fitted
batch = np.ascontiguousarray(padded.transpose(2, 0, 1))[None]  # (1, 3, H, W)
(masks,), (classes,) = session.run(["mask_logits", "class_logits"], {"image": batch})  # (Q, h, w), (Q, C + 1)
shares = np.exp(classes - classes.max(1, keepdims=True))
shares /= shares.sum(1, keepdims=True)  # the last one is "no object"


def mask_of(query):  # probability of each pixel, (H, W)
    large = Image.fromarray(masks[query]).resize((width, height), Image.Resampling.BILINEAR).crop((0, 0, *fitted.size))
    return 1 / (1 + np.exp(-np.asarray(large.resize(image.size, Image.Resampling.BILINEAR))))

"""

INSTANCES = (
    '"""Find objects: python example.py IMAGE [OBJECTS.png]."""\n'
    + QUERIES
    + """
found, numbers = [], np.zeros(image.size[::-1], np.uint16)
for query, label in zip(*np.nonzero(shares[:, :-1] >= max(settings["score_threshold"], 1e-3))):
    inside = (mask := mask_of(query)) > 0.5
    score = float(shares[query, label] * mask[inside].mean()) if inside.any() else 0.0
    if score >= settings["score_threshold"] and inside.any():
        found.append({"class": settings["class_names"][label], "score": round(score, 4), "pixels": int(inside.sum())})
        numbers[inside] = len(found)

print(json.dumps(found))
if len(sys.argv) > 2:
    Image.fromarray(numbers).save(sys.argv[2])
"""
)

SEGMENTS = (
    '"""Find segments: python example.py IMAGE [SEGMENTS.png]."""\n'
    + QUERIES
    + """
sure = (shares[:, :-1].max(1) > settings["score_threshold"]) & (shares.argmax(1) < len(settings["class_names"]))
best, owner, inside = np.zeros((3, *image.size[::-1]))  # the query that each pixel is of, counted from 1
for query in np.flatnonzero(sure):
    mask = mask_of(query)
    better = mask * shares[query].max() > best
    best[better], owner[better], inside[better] = (mask * shares[query].max())[better], query + 1, mask[better] >= 0.5
found, numbers, stuff = [], np.zeros(image.size[::-1], np.uint16), {}
for query in np.flatnonzero(sure):
    own, won, label = (mask_of(query) >= 0.5).sum(), owner == query + 1, int(shares[query].argmax())
    if own and (won & (inside > 0)).any() and won.sum() / own >= settings["overlap_threshold"]:
        number = stuff.get(label, len(found) + 1)
        if label in settings["stuff_classes"]:
            stuff[label] = number
        if number > len(found):
            score = round(float(shares[query].max()), 4)
            found.append({"id": number, "class": settings["class_names"][label], "score": score})
        numbers[won & (inside > 0)] = number

print(json.dumps(found))
if len(sys.argv) > 2:
    Image.fromarray(numbers).save(sys.argv[2])
"""
)

MORPH = '''"""Tell whether a face is a morph: python example.py IMAGE [LEFT TOP RIGHT BOTTOM]."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).parent
record = json.loads((folder / "export.json").read_text())
height, width = record["img_size"]
threshold = record["settings"]["threshold"]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
if len(sys.argv) > 5:
    image = image.crop(tuple(map(int, sys.argv[2:6])))  # the face
# the middle of the image, in the shape that the graph takes
face = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
batch = np.ascontiguousarray(np.asarray(face).transpose(2, 0, 1))[None]  # (1, 3, H, W), uint8
score = float(session.run(["scores"], {"image": batch})[0][0])  # probability of a morph

print(json.dumps({"score": round(score, 4), "is_morph": None if threshold is None else score >= threshold}))
'''

CLASSIFICATION = '''"""Tell what an image shows: python example.py IMAGE."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).parent
record = json.loads((folder / "export.json").read_text())
height, width = record["img_size"]
names = record["settings"]["class_names"]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
# the middle of the image, in the shape that the graph takes
middle = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
batch = np.ascontiguousarray(np.asarray(middle).transpose(2, 0, 1))[None]  # (1, 3, H, W), uint8
probabilities = session.run(["probabilities"], {"image": batch})[0][0]  # (C,)

print(json.dumps({name: round(float(value), 4) for name, value in zip(names, probabilities)}, ensure_ascii=False))
'''

PROMPTED = '''"""Cut out the object in a box: python example.py IMAGE LEFT TOP RIGHT BOTTOM [MASK.png]."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).parent
record = json.loads((folder / "export.json").read_text())
(height, width), mask_size = record["img_size"], record["settings"]["mask_size"]
encoder, decoder = (
    onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    for name in ("image_encoder", "prompt_decoder")
)

image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
names = ["image_embed", "high_res_feats_0", "high_res_feats_1"]
features = dict(zip(names, encoder.run(names, {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]})))

# corners of the box, the centers of its outermost pixels, in pixels of the resized image; one point that is none
scale = np.array([width, height]) / image.size
corners = (np.array(sys.argv[2:6], dtype=float).reshape(2, 2) + 0.5) * scale - 0.5
prompt = {
    "point_coords": np.concatenate([corners, np.zeros((1, 2))])[None, None].astype(np.float32),
    "point_labels": np.array([[[2, 3, -1]]]),
    "mask_input": np.zeros((1, 1, 1, *mask_size), np.float32),
    "has_mask_input": np.zeros((1, 1), np.float32),
}
masks, ious, _ = decoder.run(None, features | prompt)  # (1, 1, 4, h, w): the first for a box, three for a click
logits = Image.fromarray(masks[0, 0, 0]).resize(image.size, Image.Resampling.BILINEAR)
mask = np.asarray(logits) > 0

print(json.dumps({"iou": round(float(ious[0, 0, 0]), 4), "share": round(float(mask.mean()), 4)}))
if len(sys.argv) > 6:
    Image.fromarray(mask.astype(np.uint8) * 255).save(sys.argv[6])
'''

ENCODER = '''"""Print the mean features of images, a row for each: python example.py IMAGE..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).parent
record = json.loads((folder / "export.json").read_text())
height, width = record["img_size"]
session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])

images = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in sys.argv[1:]]
pixels = [np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)) for image in images]
batch = np.stack(pixels).transpose(0, 3, 1, 2)  # (B, 3, H, W), uint8
tokens = session.run(["last_hidden_state"], {"image": np.ascontiguousarray(batch)})[0]  # (B, 1 + N, D)

print(json.dumps(tokens[:, 1:].mean(1).round(4).tolist()))
'''

ANSWERING = '''"""Answer a question about an image: python example.py IMAGE QUESTION."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

folder = Path(__file__).parent
record = json.loads((folder / "export.json").read_text())
(height, width), settings = record["img_size"], record["settings"]
run = {
    graph["name"]: onnxruntime.InferenceSession(folder / graph["file"], providers=["CPUExecutionProvider"]).run
    for graph in record["graphs"]
}
tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(settings["max_question_tokens"])

image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))  # (H, W, 3), uint8
(seen,) = run["vision_encoder"](None, {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]})  # (1, N, D)
ids = np.array([tokenizer.encode(sys.argv[2]).ids])  # (1, T)
asked = {"vision_tokens": seen, "input_ids": ids, "attention_mask": np.ones_like(ids)}

if settings["answers"] is not None:
    (logits,) = run["answer"](None, asked)  # (1, number of answers)
    answer = settings["answers"][int(logits[0].argmax())]
else:
    states, mask = run["text_encoder"](None, asked)
    generation = settings["generation"]
    tokens = [generation["start"]]
    # the most likely token each time, whatever num_beams is
    for _ in range(generation["max_new_tokens"]):
        before = {"encoder_states": states, "encoder_attention_mask": mask, "decoder_input_ids": np.array([tokens])}
        (logits,) = run["decoder"](None, before)  # (1, size of the vocabulary)
        tokens.append(int(logits[0].argmax()))
        if tokens[-1] in generation["ends"]:
            break
    answer = tokenizer.decode(tokens[1:], skip_special_tokens=True).strip()

print(json.dumps({"answer": answer}, ensure_ascii=False))
'''

EXAMPLES = {
    "instance_segmentation": INSTANCES,
    "panoptic_segmentation": SEGMENTS,
    "semantic_segmentation": SEGMENTATION,
    "image_classification": CLASSIFICATION,
    "masked_autoencoding": ENCODER,
    "morph_detection": MORPH,
    "prompted_segmentation": PROMPTED,
    "visual_question_answering": ANSWERING,
}
