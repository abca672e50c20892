"""A trained classifier: its files, what it predicts, why, and what it is exported to."""
