"""Exit statuses, and the variable that asks for tracebacks."""

EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
DEBUG_VARIABLE = "COINFER_DEBUG"
