"""How good predictions are, from which probability on they are given, and which labels may be wrong."""
