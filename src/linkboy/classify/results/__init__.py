"""What a run writes: metrics, charts, tables, the page, and the state to continue from."""
