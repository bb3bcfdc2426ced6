"""Tree ensembles: from scikit-learn, and their batched predictions."""
