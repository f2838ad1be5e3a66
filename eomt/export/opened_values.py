"""The part of an exported folder's example that reads images of other values than RGB of 8 bits."""

from eomt.export.record import ImagesRecord

PLAIN = 'ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")'
CONVERTED = "opened(sys.argv[1])"
OPENED = '''

def opened(path):
    """Return an image as RGB of 8 bits, made of its values as export.json says of "images"."""
    intensity, channels, page = (record["images"][name] for name in ("intensity", "channels", "page"))
    head = Path(path).read_bytes()[:26]
    if head[:4] in (b"II*\\0", b"MM\\0*", b"II+\\0", b"MM\\0+"):
        import tifffile

        with tifffile.TiffFile(path) as file:
            pages = [found for found in file.pages if not found.is_reduced]
            if len(pages) <= (page or 0) or (page is None and len(pages) > 1):
                sys.exit(f"{path}: has {len(pages)} pages, and page is {page}")
            values, found = pages[page or 0].asarray(), pages[page or 0]
            if found.planarconfig == 2 and values.ndim == 3:
                values = np.moveaxis(values, 0, -1)
            if found.tags.valueof(274, 1) != 1:
                sys.exit(f"{path}: is stored turned; turn it, or read it by eomt.load")
    else:
        if head[:4] == b"\\x89PNG" and head[24] == 16 and head[25]:
            sys.exit(f"{path}: colors of 16 bits, of which Pillow keeps 8; store a TIFF, or read it by eomt.load")
        image = ImageOps.exif_transpose(Image.open(path))
        values = np.asarray(image if image.mode[0] in "LRIF" else image.convert("RGB"))
    values = values if values.ndim == 3 else values[..., None]
    if channels is None and values.shape[2] > 4:
        sys.exit(f"{path}: has {values.shape[2]} bands")
    bands = channels or ([0, 1, 2] if values.shape[2] >= 3 else [0])
    bands = bands * 3 if len(bands) == 1 else bands
    if max(bands) >= values.shape[2]:
        sys.exit(f"{path}: has {values.shape[2]} bands, but channels is {channels}")
    chosen = values[..., bands]
    if intensity is None:
        if chosen.dtype != np.uint8:
            sys.exit(f"{path}: values of {chosen.dtype}, and training has seen 8 bits")
        return Image.fromarray(np.ascontiguousarray(chosen))
    low, high = intensity if isinstance(intensity, list) else (0.0, 1.0)
    if isinstance(intensity, str):
        known = values[..., sorted(set(bands))].astype(np.float64)
        known = known[np.isfinite(known)]
        if known.size:
            low, high = np.percentile(known, [float(part[1:]) for part in intensity.split("-")])
    scaled = (chosen.astype(np.float32) - low) / ((high - low) or 1.0)
    return Image.fromarray((np.nan_to_num(scaled, posinf=1.0, neginf=0.0).clip(0, 1) * 255).round().astype(np.uint8))

'''


def example_with(example: str, images: ImagesRecord) -> str | None:
    """Return an example that reads images as in training; None where no picture of Pillow holds what a graph takes."""
    conversion = images.conversion
    if conversion is None:
        return example
    if conversion.num_channels > 3 or PLAIN not in example:
        return None
    begin, line, rest = example.partition("\nimage = ")
    return f"{begin.rstrip()}\n{OPENED}{line}{rest}".replace(PLAIN, CONVERTED)
