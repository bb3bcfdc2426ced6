"""Refinement: fit, optimise, train what was chosen, until what is returned has been measured to keep its bound."""
