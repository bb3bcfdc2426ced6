"""Files that appear whole, progress, and the executors that run work in process or on Ray."""
