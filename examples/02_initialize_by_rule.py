"""Initialise a channel-feedback auto-encoder with one call, and see that signals keep their scale.

    python examples/02_initialize_by_rule.py

The model of `csi_autoencoder.py` compresses the channel between a phone and a base station to a few numbers and restores it.
One rule for each kind of layer is enough; a rule that matches nothing, or a parameter that no rule matches, is an error.
"""

import torch
from csi_autoencoder import RULES, CsiAutoEncoder, channels

from linkboy import count_parameters, initialize


def main() -> None:
    torch.manual_seed(0)
    model = CsiAutoEncoder()
    print(count_parameters(model))
    report = initialize(
        model,
        RULES,
        on_unmatched="raise",
        generator=torch.Generator().manual_seed(0),
        audit=channels(64, seed=1),
    )
    print(report)


if __name__ == "__main__":
    main()
