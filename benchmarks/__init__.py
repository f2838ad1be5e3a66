"""Speed, memory and accuracy, each measured by one command; results in README.md beside this file."""
