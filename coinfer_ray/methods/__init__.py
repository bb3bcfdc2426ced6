"""The compared methods, one file each, and their comparison."""
