"""A page to try a model on: an image goes in, masks, scores or answers come out. Only `pages` and `serve` load Gradio."""
