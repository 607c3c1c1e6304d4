"""What it takes to ride in an engine of another project, whichever it is.

Turns on their way in, logits on their way out, verdicts in what its server sends. Knows no engine.
"""
