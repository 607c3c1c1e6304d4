"""Claims, measured: each module is one command that writes result files."""
