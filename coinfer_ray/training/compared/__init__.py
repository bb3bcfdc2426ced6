"""The training that compared methods do as their own papers describe it, one file each."""
