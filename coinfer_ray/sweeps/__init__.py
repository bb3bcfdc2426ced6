"""Sweeps: grids of scenarios in chunks, on this machine or on a Ray cluster."""
