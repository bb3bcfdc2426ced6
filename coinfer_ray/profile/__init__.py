"""``coinfer profile``: measure this machine's layers, and fit the times that the search counts by."""
