"""Layer groups: any model as an ordered list of parts, input to output."""

import collections.abc

import keras

from finetune_keras.arguments import check, check_model, one_of
from finetune_keras.data.layout import Shown, Table
from finetune_keras.engine import graph
from finetune_keras.models.group_parts import OUTSIDE, LayerGroup, parts_of
from finetune_keras.models.selection import is_batch_norm, match


class LayerGroups(Shown, collections.abc.Sequence):
    """The layer groups of a model, worked out once and handed on.

    A sequence of `LayerGroup`s from input to output: an index gives one, a
    slice a list, and a string the group of that name. What takes a model to
    freeze, to select from, to summarise or to check takes its groups as well.
    They hold as long as the model has the same layers: adapters and a new head
    ask for new ones. Flags play no part.

    A model of a class of its own may state its groups: by a method
    `layer_groups` that takes nothing and returns what `names` would be.

    Args:
        model: A `keras.Model`, built.
        names: List of strings, the groups: names of groups that the library
            finds, such as `"head"`, or regular expressions, looked for in the
            path of each layer; each text that one finds is a group, so that
            `r"block_\\d+"` makes one of each block. Each layer with weights
            must be in one. Defaults to what the model states, else to those
            of `layer_groups`.
        granularity: `"block"` or `"layer"`, see `layer_groups`. Defaults to
            `"block"`.

    Attributes:
        model: The model.
        steps: List of the `Step`s of its graph, or `None` if it has none.
        leaves: Dict from each leaf layer to its path, those beside the graph
            included, in the order of the model.
        outside: A `LayerGroup` called `"outside the graph"`, of layers that
            the model holds and no call of it passes, such as a teacher; `None`
            where there are none. It is not in the sequence.
        inside: Dict, those of `leaves` that are not in `outside`.

    Raises:
        ValueError: If `granularity` is unknown, `model` is not built yet, or
            `names` leave a layer out or find nothing.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    groups = ft.LayerGroups(model, ["stem", r"(?<=conv_[dp]w_)\\d+", "head"])
    print(groups["head"], len(groups.select("head")))
    ```
    """

    def __init__(self, model, names=None, granularity="block"):
        check(granularity=(granularity, one_of("block", "layer")))
        _check_built(model)
        self.model = model
        stated = getattr(model, "layer_groups", None)
        if names is None and granularity == "block" and callable(stated):
            names = stated()
        walked = graph.walk(model) if graph.graph_of(model) else None
        self.steps = walked and walked[0]
        self._groups = parts_of(model, walked, granularity, names)
        self.leaves = {
            layer: path
            for layer, path in graph.every_leaf(model).items()
            if not isinstance(layer, keras.layers.InputLayer)
        }
        known = {layer for group in self for layer in group.layers}
        beside = [
            layer
            for layer in self.leaves
            if layer not in known and graph.own_variables(layer)
        ]
        self.outside = LayerGroup(OUTSIDE, beside) if beside else None
        self.inside = {x: p for x, p in self.leaves.items() if x not in beside}

    def __len__(self):
        return len(self._groups)

    def __getitem__(self, index):
        if not isinstance(index, str):
            return self._groups[index]
        for group in self.every:
            if group.name == index:
                return group
        names = [group.name for group in self.every]
        raise KeyError(f"No layer group is called {index!r}; there are {names}")

    def __repr__(self):
        return f"LayerGroups({self._groups!r})"

    __str__ = __repr__

    def _layout(self):
        rows = [
            [group.name, len(group.layers), f"{group.num_params:,}"]
            for group in self.every
        ]
        title = f"Layer groups of {self.model.name}, from input to output"
        return [title, Table(["group", "layers", "parameters"], rows)]

    @property
    def every(self):
        """List of all groups, with `outside` where there is one."""
        return [*self, self.outside] if self.outside else list(self)

    @property
    def head(self):
        """The `LayerGroup` of the head, or `None`."""
        return self[-1] if self[-1].name == "head" else None

    @property
    def backbone(self):
        """List of the groups below the head."""
        return self[:-1] if self.head else self[:]

    @property
    def variables(self):
        """Dict from path, as `"block1_conv1/kernel"`, to each weight."""
        return {
            f"{path}/{variable.name}": variable
            for layer, path in self.leaves.items()
            for variable in graph.own_variables(layer)
        }

    def cut(self, index):
        """Returns the tensor that alone leads into a group and those behind.

        Args:
            index: Integer, place of the group, or string, its name.

        Returns:
            A `KerasTensor`, or `None` where no single tensor does.
        """
        return self[index].cut

    def select(self, layers="all"):
        """Turns a specification of layers into the leaf layers that it means.

        Args:
            layers: As in `select_layers`. Defaults to `"all"`.

        Returns:
            List of leaf layers in the order of the model, each once.

        Raises:
            ValueError: If any part of `layers` matches nothing.
        """
        chosen = set(match(self, layers))
        return [layer for layer in self.leaves if layer in chosen]

    def holding(self, layers):
        """Lists the groups that hold some of the layers, from input to output.

        Args:
            layers: As in `select_layers`, such as `model.layers[-4:]`.

        Returns:
            List of `LayerGroup`s, those beside the graph included.

        Raises:
            ValueError: If any part of `layers` matches nothing.
        """
        chosen = set(match(self, layers))
        return [x for x in self.every if not chosen.isdisjoint(x.layers)]

    def to_train(self, layers="all", batch_norm="frozen"):
        """Finds the layers that would train, by what `unfreeze` is told.

        Args:
            layers: As in `select_layers`. Defaults to `"all"`.
            batch_norm: `"frozen"` leaves out the `BatchNormalization` layers
                below the head, any other policy does not. Defaults to
                `"frozen"`.

        Returns:
            List of leaf layers with weights, in the order of the model.

        Raises:
            ValueError: If `layers` matches nothing, or nothing that can train.
        """
        new = self.head.layers if self.head else ()
        chosen = [
            layer
            for layer in self.select(layers)
            if graph.own_variables(layer)
            and (
                batch_norm != "frozen"
                or not is_batch_norm(layer)
                or layer in new
            )
        ]
        if not chosen:
            raise ValueError(
                "This would train nothing: `layers` holds no layer with "
                "weights but BatchNormalization, which stays frozen by "
                'default. To train it, pass `batch_norm="train"`. '
                f"Received: {layers=!r}"
            )
        return chosen


def layer_groups(model, granularity="block"):
    """Orders the layers of any model in named groups, from input to output.

    Groups follow from the graph (a residual, inception or transformer block is
    a stretch between two points where one tensor carries everything) and from
    the names of the layers. Each leaf layer with weights is in exactly one
    group. A shared layer is in the group of its first call, weights of the
    model's own are in the first one. The head, where the model has one, is the
    last group and is called `"head"`.

    Args:
        model: A `keras.Model`, built. A subclassed model has no graph: the
            layers that it holds as attributes are the groups, under the names
            of those attributes, in the order in which it calls them, with
            normalisation joined to the layer before it. No boundary between
            them can be cut.
        granularity: `"block"` for stem, blocks and head, or `"layer"` for one
            group for each layer with weights below the head. Defaults to
            `"block"`.

    Returns:
        A `LayerGroups`, a sequence of `LayerGroup`s. Any slice of it says
        where to freeze: `ft.unfreeze(model, ft.layer_groups(model)[-2:])`.

    Raises:
        ValueError: If `granularity` is unknown, or `model` is not built yet.

    Warns:
        UserWarning: If the call of a subclassed model cannot be traced: then
            its layers stand in the order of their definition.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.VGG16(weights=None)
    print([group.name for group in ft.layer_groups(model)])
    # ['block1', 'block2', 'block3', 'block4', 'block5', 'head']
    ```
    """
    return LayerGroups(model, granularity=granularity)


def as_groups(model):
    """The `LayerGroups` of a model; those that are given, as they are."""
    return model if isinstance(model, LayerGroups) else LayerGroups(model)


def select_layers(model, layers="all"):
    """Turns a specification of layers into the leaf layers that it means.

    Freezing, phases, adapters and learning rates all take the same
    specification. Layers that a model holds beside its graph, such as a
    teacher, are meant only where they are named: as a `Layer`, by their name,
    the attribute or the path, or as `"outside the graph"`.

    Args:
        model: A `keras.Model`, built, or its `LayerGroups`.
        layers: What to select, one of
            - `"all"`, `"backbone"` (all but the head) or `"head"`;
            - the name of a layer group, see `layer_groups`; where a layer has
              the same name, the group is meant;
            - the name of a layer, at any depth; an inner model or a composite
              layer stands for all its leaves;
            - a regular expression that matches a whole layer path, such as
              `r".*/(query|value)"`; a path is the names of the layers around
              a leaf and its own, joined by `/`;
            - a `Layer`, a layer class, or a `LayerGroup`;
            - an integer n of at least 0: the head and the last n groups before
              it, or the last n groups of a model without a head;
            - a callable that takes a leaf layer and returns a boolean;
            - a list of any of these, in which `"head"` is nothing where the
              model has none.

            Defaults to `"all"`.

    Returns:
        List of leaf layers in the order of the model, each once.

    Raises:
        ValueError: If any part of `layers` matches nothing, or the model or
            what is named is not built yet. The message names what exists and
            what is nearest.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    print(len(ft.select_layers(model, "block13")))
    print(len(ft.select_layers(model, keras.layers.DepthwiseConv2D)))
    print(ft.select_layers(model, r"conv_pw_1[23]"))
    ```
    """
    return as_groups(model).select(layers)


def _check_built(model):
    """Refuses a model whose weights are not all there yet."""
    check_model(model)
    if not isinstance(model, keras.Model) or not model.weights:
        raise ValueError(
            "Layer groups are made of layers with weights, and this model has "
            "none yet. Give it an `Input`, or call it on data once. "
            f"Received: model={model!r}"
        )
    if graph.graph_of(model) is None and not model.built:
        late = [layer.name for layer in model.layers if not layer.built]
        raise ValueError(
            "The model is not built yet, and what it makes later would not "
            "be frozen or trained as asked for. Call it on a batch, or call "
            f"`build`, first. Received: model={model.name!r} of type "
            f"{type(model).__name__}, not built: {late}"
        )
