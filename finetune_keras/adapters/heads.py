"""The head that goes with each adapter, while another one is switched on."""

from finetune_keras.adapters.file_base import array_of, head_of
from finetune_keras.models.adapters_by_path import adapters_by_name


def switch_head(model, name):
    """Puts the head of an adapter in the place of the one that is there.

    An adapter that is switched on for the first time begins with the head that
    is there.
    """
    holders = {
        one: _holder(places) for one, places in adapters_by_name(model).items()
    }
    wanted = holders[name]
    if wanted.head is None:
        return
    variables = list(head_of(model).values())
    for holder in holders.values():
        if holder.head is None:
            holder.head = tuple(map(array_of, variables))
    # Models that share the adapters may have another head.
    if _shapes(wanted.head) == _shapes(variables):
        for variable, value in zip(variables, wanted.head, strict=True):
            variable.assign(value)
    wanted.head = None


def head_with(model, name):
    """Dict from the path of each weight of the head of an adapter to it."""
    there = head_of(model)
    kept = _holder(adapters_by_name(model)[name]).head or ()
    if _shapes(kept) == _shapes(there.values()):
        return dict(zip(there, kept, strict=True))
    return {path: array_of(variable) for path, variable in there.items()}


def _holder(places):
    """The one layer of an adapter that keeps the head for all of them."""
    adapters = [adapter for _, adapter in places.values()]
    return next((x for x in adapters if x.head != ()), adapters[0])


def _shapes(arrays):
    return [tuple(array.shape) for array in arrays]
