"""From files and frames to labelled texts, and to the parts of a run."""
