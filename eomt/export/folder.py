"""What lies beside exported graphs: how images are prepared, an example that runs, and a page to read."""

import json
from pathlib import Path

from eomt.export.examples import EXAMPLES, README
from eomt.export.opened_values import example_with
from eomt.export.record import QuerySettings, Record
from eomt.models.network import Network
from eomt.models.parts.pixels import PixelNormalization
from eomt.utils.images import RGB

# of Pillow
BILINEAR = 2


def write_texts(folder: Path, network: Network, record: Record) -> None:
    """Write `preprocessor_config.json`, `example.py` and `README.md` into a folder of graphs."""
    settings = preprocessing(network)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    example = example_with(EXAMPLES[record.settings.task], record.images)
    if record.format == "onnx" and example is not None:
        (folder / "example.py").write_text(example)
    (folder / "README.md").write_text(README.format(**_facts(record)))


def preprocessing(network: Network) -> dict[str, object]:
    """Return what is left to do with an image, as transformers' image processors write it.

    Images are resized, or fitted and padded, and no more: the graph itself scales and normalizes them, with this mean
    and deviation.
    """
    normalize = next(module for module in network.modules() if isinstance(module, PixelNormalization))
    mean, std = (values.flatten().tolist() for values in (normalize.mean, normalize.std))
    height, width = network.img_size
    how: dict[str, object] = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": height, "width": width},
    }
    if getattr(network, "pads_images", False):
        # transformers knows no padding to what is not square
        known = {"image_processor_type": "EomtImageProcessor"} if height == width else {}
        how = known | {"do_pad": True, "size": {"shortest_edge": height, "longest_edge": width}}
    return how | {
        "do_convert_rgb": network.in_chans == RGB,
        "do_resize": True,
        "resample": BILINEAR,
        "do_rescale": False,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "image_mean": mean,
        "image_std": std,
    }


def _facts(record: Record) -> dict[str, str]:
    lines = []
    for graph in record.graphs:
        for kind, tensors in (("takes", graph.inputs), ("returns", graph.outputs)):
            for tensor in tensors:
                shape = ", ".join(map(str, tensor.shape))
                lines.append(f"| `{graph.file}` | {kind} | `{tensor.name}` | {tensor.dtype} | ({shape}) |")
    task = record.settings.task.replace("_", " ")
    fitted = isinstance(record.settings, QuerySettings)
    resized = (
        "fitted into the size above and padded with zeros, right and below" if fitted else "resized to the size above"
    )
    conversion = record.images.conversion
    values = "RGB, "
    if conversion is not None:
        kind = "RGB" if conversion.num_channels == RGB else f"{conversion.num_channels} channels"
        values = f"{kind}, made of stored values as `images` in `export.json` says, "
    return {
        "values": values,
        "resized": resized,
        "network": record.network,
        "task": task,
        "source": record.source,
        "tensors": "\n".join(lines),
    }
