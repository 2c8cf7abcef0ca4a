"""Tasks: prompts, tokenizers and limits; finite tasks list their responses."""
