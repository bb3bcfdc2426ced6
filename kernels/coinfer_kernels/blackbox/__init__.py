"""The population optimizer for any function: ask and tell, or :func:`minimize`."""
