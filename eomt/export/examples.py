"""The texts of an exported folder: programs that need NumPy, Pillow and onnxruntime, and a page to read."""

README = """# {network}: {task}

Exported from `{source}`. `export.json` says what was compared with PyTorch, and with which differences.

| file | | name | dtype | shape |
|---|---|---|---|---|
{tensors}

Images are RGB, uint8, from 0 to 255, and resized to the size above: the graph scales and normalizes them itself
(`preprocessor_config.json` has its mean and deviation).

- `python example.py IMAGE` runs it (ONNX; needs NumPy, Pillow and onnxruntime).
- `eomt.load(FOLDER).predict(IMAGE)` runs it with what `eomt` does before and after.
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

EXAMPLES = {"semantic_segmentation": SEGMENTATION, "morph_detection": MORPH}
