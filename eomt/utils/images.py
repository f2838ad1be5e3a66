"""How the names of images end: what data modules find, and what pictures of them are told apart by."""

COMMON_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# of pictures that Pillow reads; not of documents (.eps), of maps of numbers (.pfm, .fits) and of icons, which are named
RARE_EXTENSIONS = (
    *(".jpe", ".jfif", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".gif", ".apng", ".avif", ".avifs", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi", ".pcx", ".psd", ".sgi", ".rgb", ".rgba", ".bw", ".ras"),
    *(".mpo", ".dds", ".im", ".icb", ".vda", ".vst", ".xbm", ".xpm", ".pxr"),
)
IMAGE_EXTENSIONS = COMMON_EXTENSIONS + RARE_EXTENSIONS
