"""Labels that losses and metrics ignore."""

# for pixels in masks of class ids, as in Cityscapes' train ids
IGNORE_INDEX = 255
# for tokens of an answer, and for answers outside of the vocabulary: the default of PyTorch's cross-entropy
IGNORED_TOKEN = -100
