import re

import pytest

import finetune_keras as ft


def history(losses, validation=None, phases=None, solved=None):
    """A history with these losses; `phases` are the epochs of each."""
    made = ft.FineTuneHistory("val_loss")
    lengths = phases or [len(losses)]
    places = [i for i, n in enumerate(lengths) for _ in range(n)]
    for index in range(len(lengths)):
        made.phases.append({"name": ("head", "all")[index]})
    if solved is not None:
        made.phases[0]["solved"] = {"val_loss": solved}
    for epoch, (loss, phase) in enumerate(zip(losses, places, strict=True)):
        row = {"epoch": epoch, "phase": phase, "loss": loss}
        if validation:
            row["val_loss"] = validation[epoch]
        made.epochs.append(row)
    return made


STEADY = [0.9, 0.7, 0.66, 0.65, 0.65]


@pytest.mark.parametrize(
    "made, word",
    [
        (history([0.9, 0.5, 0.2, 0.1], [0.8, 0.6, 0.7, 0.9]), "Over-fitting"),
        (history([0.9, 0.7, 0.5, 0.3], [0.9, 0.8, 0.7, 0.6]), "Under-fitting"),
        (history([0.9, 0.7, 0.5, 0.3]), "training loss still fell"),
        (history([0.5, 0.9, 0.6, 1.2, 0.7], STEADY), "rate may be too high"),
        (history(STEADY, [0.6, 0.5, 0.7, 0.55, 0.54], [2, 3]), "phase 2 .all."),
        (history(STEADY, [0.8, 0.7, 0.66, 0.65, 0.65], solved=0.6), "solved"),
        (history([0.96, 0.7], [0.61, 0.6], solved=0.57), "was 0.96: .*dropout"),
        (history([0.96, 0.7], [0.8, 0.6], [2], 0.57), "was 0.96: .*dropout"),
        (history(STEADY, [1e-5, 1e-5, 1e-5, 1e-5, 1e-5]), "too good"),
    ],
)
def test_the_curves_speak(made, word):
    assert re.search(word, "\n".join(made.findings))


@pytest.mark.parametrize(
    "made",
    [
        history(STEADY, [0.9, 0.72, 0.68, 0.67, 0.68]),
        history(STEADY),
        history([0.9]),
        history([0.5], [0.6]),
        # Nothing but the rate is to blame.
        history([0.96, 0.7], [0.61, 0.5], solved=0.57),
    ],
)
def test_and_say_nothing_where_there_is_nothing(made):
    assert made.findings == []


def test_a_head_that_was_solved_alone_says_nothing():
    made = ft.FineTuneHistory("val_loss")
    made.phases.append({"name": "head", "solved": {"val_loss": 0.4}})
    assert made.findings == []
