"""Benchmarks with the peer beside ours in one process; `python -m benchmarks [--quick] [room ...]` runs them."""
