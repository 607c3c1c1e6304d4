"""What riding in another project's engine takes, whichever engine: turns on their way in, logits on
their way out, and verdicts in what its server sends. Knows no engine.
"""
