"""Devices, servers, links, scenarios and grids of them."""
