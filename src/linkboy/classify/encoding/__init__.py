"""From texts to the numbers that a model takes: n-grams, tokens, and the vectors of a pretrained encoder."""
