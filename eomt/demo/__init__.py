"""A page to try a model on. Only `pages` and, once it is called, `serve` load Gradio."""
