"""From encoded parts to the model that is kept, whether it is solved or trained in epochs."""
