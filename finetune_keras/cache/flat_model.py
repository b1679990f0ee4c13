"""The model of a run with its inner models opened, made once for all cuts."""

import contextlib

import keras

from finetune_keras.cache.activation_store import CacheRefused
from finetune_keras.engine import graph
from finetune_keras.engine.private import get_keras_mask
from finetune_keras.models.group_parts import best_cut
from finetune_keras.models.inline import opened


class FlatModel:
    """A model in which no layer is a model, and where it can be cut.

    Made of the `LayerGroups` of a `keras.Model`; `model`, once it is opened,
    is flat and shares all layers.
    """

    def __init__(self, groups):
        self.groups = groups
        self.model = None
        self._names, self._steps = (), ()
        self._cuts, self._places = {}, {}

    @contextlib.contextmanager
    def opened(self):
        """Gives each layer a name of its own while models are made of it.

        Afterwards they train and predict as any other, and must not be saved.
        """
        if self.groups.steps is None:
            raise CacheRefused("a subclassed model has no graph to cut")
        operations = {step.operation: None for step in self.groups.steps}
        names = [(x, x.name) for x in operations]
        try:
            if self.model is None:
                self._make()
                self._names = [(x, x.name) for x in operations]
            for operation, name in self._names:
                operation.name = name
            yield self.model
        finally:
            for operation, name in names:
                operation.name = name

    def cut(self, trained):
        """Cuts below the first group that trains: `(tensor, below, above)`.

        The `KerasTensor` carries all across, and the lists of `Step`s are on
        both sides of it. Where no single tensor does, it is refused.
        """
        groups = list(self.groups)
        trains = [
            any(id(v) in trained for v in group.variables) for group in groups
        ]
        # What trains may stand beside the graph alone.
        first = trains.index(True) if any(trains) else 0
        for index in range(first, 0, -1):
            position = self._cut_before(groups, index)
            if position is not None:
                below = self._steps[: position + 1]
                above = self._steps[position + 1 :]
                return self._cuts[position], below, above
        raise CacheRefused(
            "no tensor carries all that a frozen part below would compute, "
            "without a mask that goes along"
        )

    def _make(self):
        flat = opened(self.groups.model, True, self.groups.steps)
        flat = graph.graph_of(flat)
        self.model = keras.Model(flat.input, flat.output)
        self._steps, _, outputs = graph.walk(self.model)
        # What is stored has lost the mask that went with the tensor, and
        # attention, recurrent layers and means above would read the padding.
        self._cuts = {
            position: tensor
            for position, tensor in graph.cut_points(
                self._steps, outputs
            ).items()
            if get_keras_mask(tensor) is None
        }
        self._places = {}
        for place, step in enumerate(self._steps):
            for variable in getattr(step.operation, "variables", ()):
                self._places.setdefault(id(variable), []).append(place)

    def _cut_before(self, groups, index):
        below, above = (
            [p for g in part for v in g.variables for p in self._of(v)]
            for part in (groups[:index], groups[index:])
        )
        start, stop = max(below, default=0), min(above, default=0)
        return best_cut(self._steps, self._cuts, start, stop)

    def _of(self, variable):
        return self._places.get(id(variable), ())
