"""Exit statuses, and the variable that asks for tracebacks."""

EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143
DEBUG_VARIABLE = "COINFER_DEBUG"
