"""From the texts of parts to features: the encoder is learned from what the model may see."""

import time
from typing import cast

import numpy as np
from numpy.typing import NDArray

from linkboy.classify._dataset import EncodedTexts, Encoder, features_of
from linkboy.classify._features import NgramEncoder
from linkboy.classify._finetune import cut
from linkboy.classify._kinds import make_encoder
from linkboy.classify._learner import place_of
from linkboy.classify._parts import PARTS, Parts
from linkboy.classify._pretrained import PretrainedEncoder
from linkboy.classify._with_vectors import NgramsAndVectors
from linkboy.classify.recipe import TrainingOptions
from linkboy.training import is_main_process, process_count


def encode_parts(
    options: TrainingOptions, parts: Parts, *, solved: bool, lower: bool | None
) -> tuple[Encoder, dict[str, EncodedTexts], dict[str, float]]:
    """Learn the encoder and encode the parts; return both, and the seconds it took."""
    started, texts = time.perf_counter(), parts.texts["train"].texts
    if solved and options.refit:
        texts = [*texts, *parts.texts["valid"].texts]
    binary = solved or options.class_weight == "none"  # log-odds are of n-grams that occur or do not
    encoder = make_encoder(options.model, texts, vocab=options.vocab, binary=binary)
    if options.encoder is not None:
        encoder = _and_pretrained(options, cast("NgramEncoder", encoder), parts, lower)

    def weights(part: str) -> NDArray[np.float32] | None:
        own = parts.texts[part].weights
        return None if own is None else np.array(own, np.float32)

    features = features_of(encoder, {part: parts.texts[part].texts for part in PARTS})
    data = {part: EncodedTexts(encoder, features[part], parts.targets[part], weights(part)) for part in PARTS}
    return encoder, data, {"encoding": time.perf_counter() - started}


def _and_pretrained(
    options: TrainingOptions, ngrams: NgramEncoder, parts: Parts, lower: bool | None
) -> NgramsAndVectors:
    """Load the encoder and let it read all texts, which it then knows; the clocks of several processes may not agree."""
    lower = False if process_count() > 1 else lower
    pretrained = PretrainedEncoder.load(options.encoder or "", device=place_of(options), lower_precision=lower)
    if options.layers is not None:
        cut(pretrained, options.layers)
    pretrained.vectors([text for part in PARTS for text in parts.texts[part].texts], show=is_main_process())
    return NgramsAndVectors(ngrams, pretrained)
