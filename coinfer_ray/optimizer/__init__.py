"""The paper's Optimizer: from one or many scenarios to the strategies with the least latency."""
