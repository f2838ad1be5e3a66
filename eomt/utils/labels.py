"""The labels that take no part in losses and figures."""

# of pixels in masks of class ids, as in Cityscapes' train ids
IGNORE_INDEX = 255
# of tokens of an answer, and of answers without a number: PyTorch's own default of cross-entropy
IGNORED_TOKEN = -100
