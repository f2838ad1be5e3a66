"""Benchmarks of speed, memory and accuracy, one command each; README.md beside this file has the results."""
