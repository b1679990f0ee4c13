"""What the curves of a run say, in plain words."""

# Changes below this share of a loss are taken for none.
SMALL = 0.05


def find(history):
    """Lists sentences on the losses of a `FineTuneHistory`.

    Each has its figures, and what to try.
    """
    losses = [row.get("loss") for row in history.epochs]
    if not losses or None in losses:
        return []
    judged = [row for row in history.epochs if row.get("val_loss") is not None]
    solved = _solved(history)
    found = [
        _overfits(judged),
        _underfits(history.epochs, judged),
        _jumps(losses),
        *_spoils(history, judged, solved),
        _gains_nothing(judged, solved),
        _is_too_good(judged),
    ]
    return [sentence for sentence in found if sentence]


def _solved(history):
    return (history.phases[0].get("solved") or {}).get("val_loss")


def _overfits(judged):
    """Validation has risen since its least, while training went on to fall."""
    if len(judged) < 3:
        return None
    best = min(judged, key=lambda row: row["val_loss"])
    last = judged[-1]
    rise = last["val_loss"] - best["val_loss"]
    fell = last["loss"] < best["loss"] * (1 - SMALL)
    if not fell or rise < 2 * SMALL * best["val_loss"]:
        return None
    return (
        f"Over-fitting: after epoch {best['epoch'] + 1} the validation loss "
        f"rose from {best['val_loss']:.3g} to {last['val_loss']:.3g}, while "
        f"the training loss fell from {best['loss']:.3g} to "
        f"{last['loss']:.3g}. Try fewer epochs or `patience`, augmentation, "
        "dropout, or fewer layers."
    )


def _underfits(epochs, judged):
    """Both losses still fall at the end, as fast as they did before."""
    rows = judged or epochs
    name = "val_loss" if judged else "loss"
    values = [row[name] for row in rows[-4:]]
    steps = list(zip(values, values[1:], strict=False))
    falls = all(b < a * (1 - SMALL) for a, b in steps)
    if len(values) < 4 or not falls:
        return None
    which = "validation" if judged else "training"
    return (
        f"Under-fitting: the {which} loss still fell in the last three epochs, "
        f"from {values[0]:.3g} to {values[-1]:.3g}. Try more epochs, or a "
        "higher rate."
    )


def _jumps(losses):
    """The training loss goes up as often as not."""
    steps = list(zip(losses, losses[1:], strict=False))
    up = [b for a, b in steps if b > a * (1 + SMALL)]
    if len(steps) < 3 or 3 * len(up) < len(steps):
        return None
    return (
        f"The training loss rose in {len(up)} of {len(steps)} epochs by more "
        f"than {SMALL:.0%}, to {max(up):.3g} at most: the learning rate may be "
        "too high. Try a third of it, or `ft.find_learning_rate`."
    )


def _spoils(history, judged, solved):
    """Yields phases whose first epoch undoes what was reached before."""
    before = solved
    for index, phase in enumerate(history.phases):
        rows = [row for row in judged if row["phase"] == index]
        if not rows:
            continue
        first = rows[0]["val_loss"]
        if before is not None and first > before * (1 + 2 * SMALL):
            yield (
                f"The first epoch of phase {index + 1} ({phase['name']}) "
                f"raised the validation loss from {before:.3g} to "
                f"{first:.3g}. Try a lower rate.{_noise(rows[0])}"
            )
        before = min(row["val_loss"] for row in rows)


def _noise(row):
    """What is random in training may be more than the head bears."""
    if row["loss"] < row["val_loss"] * (1 + 2 * SMALL):
        return ""
    return (
        f" The training loss of that epoch was {row['loss']:.3g}: try less of "
        "what only training has, dropout before a solved head above all."
    )


def _gains_nothing(judged, solved):
    if solved is None or not judged:
        return None
    least = min(row["val_loss"] for row in judged)
    if least < solved:
        return None
    return (
        f"No epoch was better on validation than the solved head ({least:.3g} "
        f"against {solved:.3g}): training more than the head gained nothing. "
        "Try a lower rate, or keep to `ft.plans.linear_probe()`."
        f"{_noise(judged[0])}"
    )


def _is_too_good(judged):
    """Validation is nearly without loss from the first epoch on."""
    if not judged or judged[0]["val_loss"] > 1e-3:
        return None
    return (
        f"The validation loss is {judged[0]['val_loss']:.2g} after one epoch, "
        "which is too good for most data: look for examples, or copies of "
        "them, that are in training too, and for labels among the inputs."
    )
