"""Every causal LM of transformers, tiny and random: what is read of it, and by which way."""
