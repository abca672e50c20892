"""The default model: linear members, each solved, and mixed by the likelihood of rows that they have not learned from."""
