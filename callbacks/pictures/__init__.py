"""What the network sees and answers, drawn."""
