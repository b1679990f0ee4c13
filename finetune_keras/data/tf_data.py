"""What can be told of a `tf.data.Dataset` without reading it."""

_WRITES = ("AssignVariableOp", "AssignAddVariableOp")


def sources(dataset):
    """Lists a `tf.data.Dataset` and those that it is made of."""
    found = [dataset]
    for source in dataset._inputs():
        found += sources(source)
    return found


def epochs_of(dataset):
    """Lists the `Epochs` on which a `tf.data.Dataset` hangs."""
    members = [vars(source) for source in sources(dataset)]
    return [each["epochs"] for each in members if "epochs" in each]


def is_shuffled(dataset):
    """Tells whether each pass over a `tf.data.Dataset` has its own order."""
    if any(epochs.shuffles for epochs in epochs_of(dataset)):
        return True
    return any(map(_shuffles, sources(dataset)))


def _shuffles(dataset):
    return "Shuffle" in type(dataset).__name__ and getattr(
        dataset, "_reshuffle_each_iteration", True
    )


def is_augmented(dataset):
    """Tells whether a `tf.data.Dataset` draws random numbers in a `map`."""
    return any("Random" in n or "Rng" in n for n in _operations(dataset))


def remembers_passes(dataset):
    """Tells whether a pass hangs on how many there were in this process."""
    for source in sources(dataset):
        if _shuffles(source) or "Random" in type(source).__name__:
            return True
    names = [n for n in _operations(dataset) if "Stateless" not in n]
    drawn = any("Random" in n or "Rng" in n for n in names)
    # As the random layers of Keras do.
    return drawn or any(n in _WRITES for n in names)


def is_random(dataset):
    """Tells whether passes over a `tf.data.Dataset` may differ."""
    known = epochs_of(dataset) or is_augmented(dataset)
    return bool(known) or remembers_passes(dataset)


def _operations(dataset):
    """Lists the names of the operations in all functions of a dataset."""
    functions = [f for x in sources(dataset) for f in x._functions()]
    graphs = [f.function.graph.as_graph_def() for f in functions]
    return [
        node.op
        for graph in graphs
        for nodes in (graph.node, *(f.node_def for f in graph.library.function))
        for node in nodes
    ]
