"""Data that a program holds: what kind it is, its labels, a run on it, and answers row by row."""
