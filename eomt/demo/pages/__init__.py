"""The pages, one for each task, in Gradio."""
