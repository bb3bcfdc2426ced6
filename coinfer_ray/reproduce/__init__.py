"""The paper's evaluation, made again from the shipped records: ``coinfer reproduce``."""
