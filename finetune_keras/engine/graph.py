"""The graph under a model: its steps, its leaf layers, its cut points.

Everything here reads Keras's own graph of nodes.
"""

import keras

from finetune_keras.engine.private import (
    Functional,
    functional_like_constructor,
    inner_optimizer,
    make_node_key,
)


class Step:
    """One call of one operation, with inner models opened up.

    Attributes:
        operation: The `keras.Operation` (most often a layer) that is called.
        path: String, names of the models around it and its own, joined by `/`.
        inputs: List of keys of the tensors that it reads.
        outputs: List of keys of the tensors that it makes.
        tensors: List of `KerasTensor`s, one for each of `outputs`.
        input_shapes: List of shapes of the tensors that it reads.
        arguments: List of all that it is called with, tensors or not.
    """

    def __init__(self, node, path, inputs, outputs):
        self.operation = node.operation
        self.path = path
        self.inputs = inputs
        self.outputs = outputs
        self.tensors = node.outputs
        self.input_shapes = [t.shape for t in node.input_tensors]
        called = node.arguments
        self.arguments = keras.tree.flatten((called.args, called.kwargs))

    def __repr__(self):
        return f"<Step {self.path}>"


def graph_of(model):
    """Returns the functional graph of a model, or `None` if it has none."""
    if isinstance(model, keras.Sequential):
        return model._functional
    has_graph = getattr(model, "_nodes_by_depth", None) is not None
    return model if has_graph and isinstance(model, keras.Model) else None


def walk(model):
    """`(steps, input_keys, output_keys)` of a model, from input to output.

    A branch stands in one piece, the longest first; Keras's own order goes to
    and fro between the towers of a model.
    """
    graph = graph_of(model)
    keys = {id(tensor): ("input", i) for i, tensor in enumerate(graph.inputs)}
    inputs = list(keys.values())
    steps = []
    _walk(graph, keys, "", steps)
    outputs = [keys[id(tensor)] for tensor in graph.outputs]
    places = _by_branch(steps, outputs)
    new = {old: place for place, old in enumerate(places)}

    def moved(found):
        return [(new.get(key[0], key[0]), key[1]) for key in found]

    steps = [steps[old] for old in places]
    for step in steps:
        step.inputs, step.outputs = moved(step.inputs), moved(step.outputs)
    return steps, inputs, moved(outputs)


def _by_branch(steps, outputs):
    """Places of steps in an order in which each branch is in one piece."""
    depths = []
    for step in steps:
        read = [depths[key[0]] for key in step.inputs if key[0] != "input"]
        depths.append(1 + max(read, default=0))
    ranks, left = {}, _deepest_first(outputs, depths)[::-1]
    while left:
        place = left[-1]
        missing = [
            p
            for p in _deepest_first(steps[place].inputs, depths)
            if p not in ranks
        ]
        if missing and place not in ranks:
            left.append(missing[0])
            continue
        left.pop()
        ranks.setdefault(place, len(ranks))
    # What no output needs stays behind that which it reads.
    for place, step in enumerate(steps):
        read = [ranks[key[0]] for key in step.inputs if key[0] != "input"]
        ranks.setdefault(place, max(read, default=-1))
    return sorted(ranks, key=lambda place: (ranks[place], place))


def _deepest_first(keys, depths):
    places = dict.fromkeys(key[0] for key in keys if key[0] != "input")
    return sorted(places, key=lambda place: -depths[place])


def _walk(graph, keys, prefix, steps):
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                _walk_node(node, keys, prefix, steps)


def _walk_node(node, keys, prefix, steps):
    operation = node.operation
    path = prefix + operation.name
    inputs = [keys[id(tensor)] for tensor in node.input_tensors]
    inner = graph_of(operation)
    if inner is None:
        outputs = [(len(steps), i) for i in range(len(node.outputs))]
        steps.append(Step(node, path, inputs, outputs))
    else:
        tensors = zip(inner.inputs, inputs, strict=False)
        inner_keys = {id(tensor): key for tensor, key in tensors}
        _walk(inner, inner_keys, path + "/", steps)
        outputs = [inner_keys[id(tensor)] for tensor in inner.outputs]
    for tensor, key in zip(node.outputs, outputs, strict=True):
        keys[id(tensor)] = key


def speaks_for_its_layers(model):
    """Has `layer.output` and `layer.input` mean the calls in this model.

    Keras answers with the first call that a layer ever had. That of layers
    which are shared with the model that this one was made of stands in the
    other graph, and features by `layer.output` would not be connected. The
    answer alone is changed, not the calls, so that both models can be saved.
    """
    graph = graph_of(model)
    for operation in graph.operations:
        calls = [
            place
            for place in range(len(operation._inbound_nodes))
            if make_node_key(operation, place) in graph._nodes
        ]
        vars(operation).pop(_ANSWER, None)
        if calls and calls[0] > 0 and graph_of(operation) is None:
            vars(operation)[_ANSWER] = _answer(operation, calls)
    return model


_ANSWER = "_get_node_attribute_at_index"


def _answer(operation, calls):
    def answer(place, *names):
        return getattr(type(operation), _ANSWER)(
            operation, calls[place], *names
        )

    return answer


def inputs_of(steps):
    """List of the keys of the inputs that each step depends on, as sets."""
    known, read = {}, []
    for step in steps:
        inputs = {key for key in step.inputs if key[0] == "input"}
        inputs.update(*(known.get(key, ()) for key in step.inputs))
        known.update((key, inputs) for key in step.outputs)
        read.append(inputs)
    return read


def cut_points(
    steps,
    output_keys,
    passes=lambda tensor: False,
    beside=(),
    by_tower=False,
):
    """Dict from the place of a step to the only `KerasTensor` alive after it.

    Inputs of the model, such as a padding mask, may pass a cut by: whoever
    stores the tensor has them at hand. So may what `passes` holds for, such
    as `is_mask`, what the steps at the places in `beside` read and make, and
    `by_tower` what is made of other inputs: right for telling blocks, wrong
    for cutting.
    """
    read = inputs_of(steps) if by_tower else None
    last_use = {key: len(steps) for key in output_keys}
    steps = [(i, step) for i, step in enumerate(steps) if i not in beside]
    for position, step in steps:
        for key in step.inputs:
            last_use[key] = max(position, last_use.get(key, position))
    cuts, alive = {}, {}
    for position, step in steps:
        made = zip(step.outputs, step.tensors, strict=True)
        alive.update((key, x) for key, x in made if not passes(x))
        for key in [k for k in alive if last_use.get(k, -1) <= position]:
            del alive[key]
        here = list(alive.values())
        if by_tower:
            own = read[position]
            here = [
                x
                for key, x in alive.items()
                if not own.isdisjoint(read[key[0]]) or not read[key[0]]
            ]
        if len(here) == 1:
            (cuts[position],) = here
    return cuts


def is_mask(tensor):
    """Tells a mask from what has features."""
    return tensor.dtype == "bool"


def own_variables(layer):
    """Lists the weights that a layer holds itself, not its inner layers'."""
    return layer._trainable_variables + layer._non_trainable_variables


def inner_layers(layer):
    """Lists the layers that a layer holds directly."""
    if isinstance(layer, keras.Sequential) and graph_of(layer) is not None:
        return layer.layers
    if graph_of(layer) is not None:
        return [inner for inner in layer.layers if inner is not layer]
    return [
        inner
        for inner in getattr(layer, "_layers", [])
        if isinstance(inner, keras.layers.Layer)
    ]


def leaf_layers(layer, path=None):
    """Dict from the layers in which freezing happens to their paths.

    A leaf has no inner layers, or has weights of its own beside them. `path`
    stands before the names of inner layers, by default the layer's own name,
    or nothing for a model.
    """
    leaves = {}
    _collect_leaves(layer, path or "", leaves, set())
    return leaves


def _collect_leaves(layer, path, leaves, seen):
    if id(layer) in seen:
        return
    seen.add(id(layer))
    inner = inner_layers(layer)
    if not inner or own_variables(layer):
        leaves[layer] = path or layer.name
    for child in inner:
        _collect_leaves(child, f"{path}/{child.name}".lstrip("/"), leaves, seen)


def weights_by_path(model):
    """Dict of the weights of a model by the path of their layer.

    Unlike `variable.path`, which tells in which scope a layer was built, it
    is the same after the model was opened, saved and loaded.
    """
    return {
        f"{path}/{variable.name}": variable
        for layer, path in leaf_layers(model).items()
        for variable in own_variables(layer)
    }


def all_layers(layer):
    """Lists every layer inside a model or layer, at any depth, once."""
    found, left = {}, inner_layers(layer)[::-1]
    while left:
        child = left.pop()
        if id(child) not in found:
            found[id(child)] = child
            left += inner_layers(child)[::-1]
    return list(found.values())


def layers_beside(model):
    """Lists the layers that a model holds, and no graph or layer of it does.

    A teacher, a momentum encoder or a network of the loss are such: attributes
    of a functional model, or of one inside.
    """
    known = {id(model), *map(id, all_layers(model))}
    return [x for x in model._flatten_layers() if id(x) not in known]


def every_leaf(model):
    """`leaf_layers`, and those with weights that stand beside the graph."""
    leaves = leaf_layers(model)
    beside = layers_beside(model)
    inside = {id(x) for layer in beside for x in all_layers(layer)}
    for layer in beside:
        if id(layer) not in inside:
            found = leaf_layers(layer, layer.name).items()
            leaves.update((x, path) for x, path in found if own_variables(x))
    return leaves


def set_own_flag(layer, trainable):
    """Sets the flag of a layer and of its own weights, not of inner ones."""
    layer._trainable = trainable
    for variable in layer._trainable_variables:
        variable.trainable = trainable


def is_fixed(layer, variable):
    """Tells whether a weight that its layer could train is held fixed."""
    layers = [x for x in layer._flatten_layers() if x.trainable]
    return not variable.trainable and any(
        variable is own for x in layers for own in x._trainable_variables
    )


def saves_inner_flags(layer):
    """Tells whether Keras's file keeps the flags of the layers inside."""
    return isinstance(layer, keras.Sequential) or is_plain_functional(layer)


def lists_layers(model):
    """Tells whether Keras's file of a model lists its layers, with flags."""
    return isinstance(model, keras.Sequential) or (
        graph_of(model) is model and functional_like_constructor(type(model))
    )


def is_plain_functional(model):
    """Tells whether a model is functional and of no class of its own."""
    return type(model) is Functional


def change_class(model, kind):
    """Has a model be of another class, whose file keeps more of it, or less.

    What `freeze` and adapters do, they do to the model that a person holds, and
    Keras finds the reader of a file by the class of the object alone: neither
    its config nor anything on the object can name another one. So this is the
    one place where an object changes its class; both must lay out alike.
    """
    model.__class__ = kind


def optimized_ids(optimizer):
    """Lists the identities of the variables that an optimizer moves."""
    parts = getattr(optimizer, "optimizers", None)
    if parts:
        return set().union(*map(optimized_ids, parts))
    optimizer = inner_optimizer(optimizer)
    return {id(v) for v in optimizer._trainable_variables}


def is_random(operation, but_for=()):
    """Tells whether an operation draws random numbers while training."""
    layers = [operation]
    if isinstance(operation, keras.layers.Layer):
        layers = operation._flatten_layers()
    return any(
        getattr(layer, "_seed_generators", None)
        or hasattr(layer, "seed_generator")
        for layer in layers
        if not isinstance(layer, but_for)
    )
