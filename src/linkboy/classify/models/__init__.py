"""The modules that turn encoded texts into logits, and which encoder and which of them make a kind of classifier."""
