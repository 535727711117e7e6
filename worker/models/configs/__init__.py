"""The small files that a checkpoint in one file lacks: configurations by kind, and the tokenizer of CLIP."""
