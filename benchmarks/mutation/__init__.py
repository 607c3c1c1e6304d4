"""Small faults put into a copy of the code, and whether a test of the faulty part notices."""
