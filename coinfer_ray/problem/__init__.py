"""What is chosen and what it costs: the paper's Parameters Generator and Delay Calculator."""
