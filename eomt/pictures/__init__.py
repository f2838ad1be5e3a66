"""What pictures are painted with: colors, masks, prompts and text."""
