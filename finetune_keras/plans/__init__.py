"""Plans: phases in order, and published strategies that return them."""

from finetune_keras.plans.strategies import (
    adapters,
    chain_thaw,
    discriminative,
    full,
    gradual,
    linear_probe,
    linear_probe_then_full,
    top_layers,
)

__all__ = [
    "adapters",
    "chain_thaw",
    "discriminative",
    "full",
    "gradual",
    "linear_probe",
    "linear_probe_then_full",
    "top_layers",
]
