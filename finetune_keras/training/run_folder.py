"""A run and the folder that it can go on from."""

import contextlib
import random
import warnings

from finetune_keras.engine.workers import agree_on
from finetune_keras.training import resume
from finetune_keras.training.callback_state import check_callbacks
from finetune_keras.training.identity import facts_of
from finetune_keras.training.run_state import RunState
from finetune_keras.training.shared_checkpoint import open_checkpoint


@contextlib.contextmanager
def in_folder(run, folder):
    """Holds the folder of a run, if it has one.

    Args:
        run: A `Run`.
        folder: String, or `None`.

    Raises:
        ValueError: If another run uses the folder.
    """
    if folder is None:
        yield
        return
    run.state.seed = agree_on(run.full, random.randrange(2**20, 2**31))
    run.checkpoint = open_checkpoint(run.full, folder, facts_of(run))
    if run.train.remembers_passes:
        warnings.warn(
            "The order or the draws of `train` hang on how often it was read "
            "in this process, so that a run that goes on in another one ends "
            "with other weights. Arrays, texts and the data of `from_arrays`, "
            "`image_folder` and their like go on exactly. "
            f"Received: train={run.train.given!r}",
            stacklevel=4,
        )
    try:
        yield
    finally:
        run.checkpoint.close()
        take_order_of(run, None)


def take_order_of(run, epoch):
    """Lets data whose order hangs on the epoch have that of this one."""
    for inputs in (run.train, run.validation):
        if inputs is not None:
            inputs.hold_epoch(epoch)


def save_run(run):
    """Writes all that a run must remember into its folder."""
    facts, arrays = resume.pack_training(run.full)
    callbacks, remembered = run.remembered.pack()
    facts.update(
        state=run.state.to_dict(),
        rates=run.rates.get_state(),
        watched=run.best.watched(),
        callbacks=callbacks,
    )
    arrays = {**arrays, **remembered, **run.best.pack(), **run.phase_seeds}
    run.checkpoint.save(facts, arrays)


def restore_run(run, facts, arrays):
    """Gives a run its place, history and best epoch back.

    Weights and optimizer follow in the phase, which sets what trains.
    """
    _check_rate(run, facts)
    check_callbacks(facts["callbacks"], run.relay.callbacks)
    run.state = RunState.from_dict(facts["state"])
    run.rates.set_state(facts["rates"])
    run.best.unpack(run.groups, facts["watched"], arrays)


def _check_rate(run, facts):
    """Refuses another rate of the model's own, where a phase takes it."""
    own = any(phase.learning_rate is None for phase in run.plan)
    rows = facts["state"]["history"]["epochs"]
    before, now = facts["rates"]["compiled"], run.rates.compiled
    known = [before, *(row["learning_rate"] for row in rows)]
    if own and not run.rates.is_compiled and now not in known:
        raise ValueError(
            "The folder holds the state of another run: its learning rate was "
            f"{before:.3g} and is {now:.3g}. Compile the model with the same, "
            "or give this run an empty folder. "
            f"Received: checkpoint_dir={run.checkpoint.folder!r}"
        )
