"""What a calibrated model decides on, what it abstains from, and its sets."""

import numpy as np

from finetune_keras.results.decisions import Decisions

_MOST = 50


def coverage_of(outcomes, calibration, names):
    """Plain facts on the decisions of a calibration, or `None` without any.

    Shares are of examples, not weighted. Of what it abstains from, the least
    sure first, at most 50 are listed with what would have been said.
    """
    floor = getattr(calibration, "abstain_below", None)
    level = getattr(calibration, "conformal", None)
    if floor is None and level is None:
        return None
    scores, facts = _outputs(outcomes, calibration), {}
    decisions = Decisions(scores, calibration)
    if floor is not None:
        facts |= _abstained(outcomes, decisions, names)
    if level is not None:
        sets = scores >= level
        holds = (sets & outcomes.membership).any(axis=1)
        facts["sets_hold_truth"] = float(holds.mean())
        facts["set_size"] = float(sets.sum(axis=1).mean())
    return facts


def _outputs(outcomes, calibration):
    """Probabilities in the columns that the calibration has seen."""
    # Not rescaled to sum to one: at its threshold the last bit tells.
    outputs = outcomes.outputs.astype("float64")
    sigmoid = calibration.activation == "sigmoid"
    single = sigmoid and outcomes.task == "classification"
    return outputs[:, 1:] if single else outputs


def _abstained(outcomes, decisions, names):
    left = decisions.abstained
    order = np.argsort(decisions.confidence, kind="stable")
    order = order[left[order]]
    task = outcomes.task
    return {
        "decided": int((~left).sum()),
        "right": _share(outcomes.correct[~left]),
        "right_abstained": _share(outcomes.correct[left]),
        "abstained": [
            {
                "index": int(i),
                "name": None if names is None else names[i],
                "true": task.plain(outcomes.y_true[i]),
                "predicted": task.plain(outcomes.y_pred[i]),
                "confidence": float(decisions.confidence[i]),
            }
            for i in order[:_MOST]
        ],
    }


def _share(flags):
    return float(flags.mean()) if len(flags) else None
