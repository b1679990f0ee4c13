"""What a model has traced of itself, and how it comes to forget it."""

import gc
import itertools

import keras

# The last is of KerasHub's generative tasks.
FUNCTIONS = (
    "train_function",
    "test_function",
    "predict_function",
    "generate_function",
)


def forget_traces(model):
    """Lets all that computes with layers of a model be traced anew.

    That is the model, the models in it, and those around: a layer does not
    know them, but the task that holds a backbone goes on with what it has
    traced of it.

    Args:
        model: A `keras.Model`, whose layers now compute something else.
    """
    own = set(map(id, model._flatten_layers()))
    # What `gc.freeze` has put aside, as a search does, is in no list.
    gc.unfreeze()
    for other in all_models():
        traced = [name for name in FUNCTIONS if vars(other).get(name)]
        layers = other._flatten_layers() if traced else ()
        if any(id(layer) in own for layer in layers):
            for name in traced:
                clear_trace(getattr(other, name))
                setattr(other, name, None)


def all_models():
    """Yields the models of this process."""
    classes = [keras.Model]
    for cls in classes:
        classes += type.__subclasses__(cls)
    # By type: to ask an object itself may wake what only stands for one. There
    # are millions of objects, and of loops Python's own are the slow ones.
    objects = gc.get_objects()
    wanted = map(set(classes).__contains__, map(type, objects))
    return itertools.compress(objects, wanted)


def clear_trace(function):
    """Clears a trace that JAX would use again while anyone holds it.

    `jax.jit` knows a function by equality, and `model.train_step` is equal to
    itself: a new `jit` of it would get the trace of the old one.

    Args:
        function: A function that Keras has made, or `None`.
    """
    for cell in getattr(function, "__closure__", None) or ():
        if hasattr(cell.cell_contents, "clear_cache"):
            cell.cell_contents.clear_cache()
