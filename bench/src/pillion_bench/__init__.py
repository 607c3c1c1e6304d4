"""Methods measured against each other, on the same rows: `pillion bench`.

Stands above all of pillion, which does not know it but for the name of the verb.
"""
