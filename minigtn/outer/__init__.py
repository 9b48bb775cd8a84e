"""The outer loop: the meta-gradient, the meta-training it drives, and the judgement of what came out."""
