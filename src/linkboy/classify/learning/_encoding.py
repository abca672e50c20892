"""From the texts of parts to features: the encoder is learned from what the model may see."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from linkboy.classify.encoding._dataset import EncodedTexts, Encoder, features_of
from linkboy.classify.encoding._features import NgramEncoder
from linkboy.classify.encoding._pretrained import PretrainedEncoder
from linkboy.classify.encoding._with_vectors import NgramsAndVectors
from linkboy.classify.learning._finetune import cut
from linkboy.classify.learning._learner import place_of
from linkboy.classify.models._kinds import make_encoder
from linkboy.classify.reading._parts import PARTS, Parts
from linkboy.classify.recipe import TrainingOptions
from linkboy.training import is_main_process, process_count


def encoder_of(options: TrainingOptions, parts: Parts, *, solved: bool, lower: bool | None = None) -> Encoder:
    """Learn the encoder of the texts from what the model may see.

    Args:
        options: what was asked for.
        parts: the data.
        solved: whether the model is solved, and not trained in epochs.
        lower: whether a pretrained encoder computes in bfloat16; `None` to try it.
    """
    texts = parts.texts["train"].texts
    if solved and options.refit:
        texts = [*texts, *parts.texts["valid"].texts]
    binary = solved or options.class_weight == "none"  # log-odds are of n-grams that occur or do not
    encoder = make_encoder(options.model, texts, vocab=options.vocab, binary=binary)
    return encoder if options.encoder is None else _and_pretrained(options, cast("NgramEncoder", encoder), lower)


def encoded_by(encoder: Encoder, parts: Parts) -> dict[str, EncodedTexts]:
    """Encode the parts; a pretrained encoder reads the texts of all of them first, and then knows them."""
    if isinstance(encoder, NgramsAndVectors):
        encoder.pretrained.vectors([text for part in PARTS for text in parts.texts[part].texts], show=is_main_process())

    def weights(part: str) -> NDArray[np.float32] | None:
        own = parts.texts[part].weights
        return None if own is None else np.array(own, np.float32)

    features = features_of(encoder, {part: parts.texts[part].texts for part in PARTS})
    return {part: EncodedTexts(encoder, features[part], parts.targets[part], weights(part)) for part in PARTS}


def _and_pretrained(options: TrainingOptions, ngrams: NgramEncoder, lower: bool | None) -> NgramsAndVectors:
    """Load the pretrained encoder; the clocks of several processes, by which the precision is chosen, may not agree."""
    lower = False if process_count() > 1 else lower
    pretrained = PretrainedEncoder.load(options.encoder or "", device=place_of(options), lower_precision=lower)
    if options.layers is not None:
        cut(pretrained, options.layers)
    return NgramsAndVectors(ngrams, pretrained)
