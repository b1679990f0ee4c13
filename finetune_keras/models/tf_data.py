"""What can be told of a `tf.data.Dataset` without reading it."""


def is_shuffled(dataset):
    """Tells whether each pass over a `tf.data.Dataset` has its own order."""
    if "Shuffle" in type(dataset).__name__ and getattr(
        dataset, "_reshuffle_each_iteration", True
    ):
        return True
    return any(is_shuffled(source) for source in dataset._inputs())


def is_augmented(dataset):
    """Tells whether a `tf.data.Dataset` draws random numbers in a `map`."""
    for function in dataset._functions():
        graph = function.function.graph.as_graph_def()
        nodes = [
            *graph.node,
            *(n for f in graph.library.function for n in f.node_def),
        ]
        if any("Random" in n.op or "Rng" in n.op for n in nodes):
            return True
    return any(is_augmented(source) for source in dataset._inputs())
