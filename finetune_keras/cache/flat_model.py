"""The model of a run with its inner models opened, made once for all cuts."""

import contextlib

import keras

from finetune_keras.cache.activation_store import CacheRefused
from finetune_keras.cache.open_stacks import stacks_of, with_open_stacks
from finetune_keras.engine import graph
from finetune_keras.engine.private import get_keras_mask
from finetune_keras.models.group_parts import best_cut
from finetune_keras.models.head_finder import side_branches
from finetune_keras.models.inline import opened
from finetune_keras.models.outside_graph import prepares_inputs


class FlatModel:
    """A model in which no layer is a model, and where it can be cut.

    Made of the `LayerGroups` of a `keras.Model`; `model`, once it is opened,
    is flat and shares all layers. `make`, a function of the model and its
    steps, makes that flat model where it is to differ, such as `for_answers`.
    """

    def __init__(self, groups, make=None):
        self.groups = groups
        self.make = make
        self.model = None
        self._names, self._steps = (), ()
        self._cuts, self._loose_cuts, self._places = {}, {}, {}
        self._beside = set()

    @property
    def prepares_inputs(self):
        """Whether data go through what the model does before its graph."""
        return self.make is None and prepares_inputs(self.groups.model)

    @contextlib.contextmanager
    def opened(self):
        """Gives each layer a name of its own while models are made of it.

        Afterwards they train and predict as any other, and must not be saved.
        """
        if self.groups.steps is None:
            raise CacheRefused("a subclassed model has no graph to cut")
        operations = {step.operation: None for step in self.groups.steps}
        stacks = stacks_of(self.groups) if self.make is None else []
        inside = [x for stack in stacks for x in graph.all_layers(stack)]
        operations.update(dict.fromkeys(inside))
        names = [(x, x.name) for x in operations]
        try:
            if self.model is None:
                self._make(stacks)
                self._names = [(x, x.name) for x in operations]
            for operation, name in self._names:
                operation.name = name
            yield self.model
        finally:
            for operation, name in names:
                operation.name = name

    def cut(self, trained):
        """Cuts below the first group that trains: `(tensors, below, above)`.

        One `KerasTensor` carries all across, but for vectors that go past it
        to the head, which come after it, and the lists of `Step`s are on both
        sides of it. Where no such tensor does, it is refused.
        """
        groups = list(self.groups)
        trains = [
            any(id(v) in trained for v in group.variables) for group in groups
        ]
        # What trains may stand beside the graph alone.
        first = trains.index(True) if any(trains) else 0
        for index in range(first, 0, -1):
            for cuts in (self._cuts, self._loose_cuts):
                position = self._cut_before(groups, index, cuts)
                if position is None:
                    continue
                carried, below, above = self._split(position, cuts[position])
                masked = any(get_keras_mask(x) is not None for x in carried)
                if not masked and self._texts.isdisjoint(_read(above)):
                    return carried, below, above
        raise CacheRefused(
            "no tensor carries all that a frozen part below would compute, "
            "without a mask that goes along"
        )

    def _make(self, stacks):
        model, steps = self.groups.model, self.groups.steps
        if self.make is None:
            flat = graph.graph_of(opened(model, True, steps))
            self.model = keras.Model(flat.input, flat.output)
            self.model = with_open_stacks(self.model, stacks)
        else:
            self.model = self.make(model, steps)
        self._steps, _, outputs = graph.walk(self.model)
        head = self.groups.head.variables if self.groups.head else ()
        self._beside = {
            place
            for place in side_branches(self._steps, {id(v) for v in head})
            if not _must_stay_above(self._steps[place].operation)
        }
        # Texts cannot be stored, to be at hand above a cut.
        self._texts = {
            ("input", i)
            for i, tensor in enumerate(self.model.inputs)
            if tensor.dtype == "string"
        }
        self._beside |= set(_of_inputs_alone(self._steps, self._texts))
        self._cuts, self._loose_cuts = (
            self._usable(graph.cut_points(self._steps, outputs, beside=beside))
            for beside in ((), self._beside)
        )
        self._places = {}
        for place, step in enumerate(self._steps):
            for variable in getattr(step.operation, "variables", ()):
                self._places.setdefault(id(variable), []).append(place)

    def _usable(self, cuts):
        """Those cuts behind which Keras can make a model.

        Not at a tensor that a mask goes with: what is stored has lost it, and
        attention, recurrent layers and means above would read the padding.
        Nor behind a layer that is called again above, for whose call Keras
        would take what is stored.
        """
        last = {step.operation: i for i, step in enumerate(self._steps)}
        return {
            i: tensor
            for i, tensor in cuts.items()
            if get_keras_mask(tensor) is None
            and last[self._steps[i].operation] == i
        }

    def _split(self, position, tensor):
        """What is stored of a cut, and the steps below and above it."""
        below = [
            step
            for place, step in enumerate(self._steps[: position + 1])
            if place not in self._beside
        ]
        past, free = self._past(below)
        known = {*below, *(x for x in past if free.isdisjoint(x.outputs))}
        above = [step for step in self._steps if step not in known]
        needed = _read(above) - free
        vectors = [
            vector
            for step in past
            for key, vector in zip(step.outputs, step.tensors, strict=True)
            if key in needed
        ]
        return [tensor, *vectors], past + below, above

    def _past(self, below):
        """Steps of side branches that are run with those below a cut.

        What is made of the inputs alone, whose keys come second, is run on
        both sides: the inputs are at hand there.
        """
        made = {key for step in below for key in step.outputs}
        past, free = [], set()
        for place in sorted(self._beside):
            step = self._steps[place]
            read = {key for key in step.inputs if key[0] != "input"}
            if read <= free:
                free.update(step.outputs)
            elif not read <= made | free:
                continue
            made.update(step.outputs)
            past.append(step)
        return past, free

    def _cut_before(self, groups, index, cuts):
        below, above = (
            [p for g in part for v in g.variables for p in self._of(v)]
            for part in (groups[:index], groups[index:])
        )
        stop = min(above, default=0)
        # A tied embedding, frozen, is called again at the end.
        start = max((place for place in below if place < stop), default=0)
        return best_cut(self._steps, cuts, start, stop)

    def _of(self, variable):
        return self._places.get(id(variable), ())


def _read(steps):
    return {key for step in steps for key in step.inputs}


def _of_inputs_alone(steps, texts):
    """Places of steps that make something of inputs alone, such as masks."""
    places, free = [], set()
    for place, step in enumerate(steps):
        known = all(
            (key[0] == "input" and key not in texts) or key in free
            for key in step.inputs
        )
        if known and step.inputs and not _must_stay_above(step.operation):
            places.append(place)
            free.update(step.outputs)
    return places


def _must_stay_above(operation):
    """Tells whether an operation would be a reason not to store anything."""
    return graph.is_random(operation) or bool(getattr(operation, "weights", ()))
