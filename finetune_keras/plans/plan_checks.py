"""Whether the phases of a plan follow one from the other."""

import warnings

# What two phases must have in common to be one.
_RATES = ("learning_rate", "schedule", "warmup_fraction", "multipliers")
_RATES += ("weight_decay", "optimizer")


def check_something_new(plan, selections, index):
    """Raises where a phase does what the one before it has done."""
    before, phase = plan[index - 1], plan[index]
    # The selections tell whether `batch_norm` makes a difference.
    same = selections[index] == selections[index - 1] and all(
        getattr(before, name) == getattr(phase, name) for name in _RATES
    )
    decays = [one.layerwise_lr_decay or 1.0 for one in (before, phase)]
    # A schedule that begins anew is a warm restart.
    if same and decays[0] == decays[1] and phase.has_one_rate:
        raise ValueError(
            f"Phase {index + 1} does nothing new against phase {index}: the "
            "same layers train at the same rates. Join the two into one phase "
            f"of {before.epochs + phase.epochs} epochs, or change one. "
            f"Received: {before!r} and {phase!r}"
        )


def warn_of_high_rate(plan, selections, index):
    """Warns where a phase adds layers at a higher rate than the first."""
    first, phase = plan[0], plan[index]
    if not first.learning_rate or not phase.learning_rate:
        return
    added = selections[index] - selections[0]
    if added and phase.learning_rate > first.learning_rate:
        warnings.warn(
            f"Phase {index + 1} ({phase.layers!r}) trains more layers than "
            f"phase 1 ({first.layers!r}), at learning_rate="
            f"{phase.learning_rate:g} over {first.learning_rate:g}. Pretrained "
            "layers usually need a lower rate than a new head, often a tenth: "
            "a high one undoes what they know.",
            UserWarning,
            stacklevel=3,
        )
