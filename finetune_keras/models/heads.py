"""Find, remove, replace and build heads."""

import numbers

import keras

from finetune_keras.arguments import check, integer, maybe, one_of, part
from finetune_keras.data.outputs import is_detector
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.models.dense_head import (
    is_segmenter,
    refuse_overlapping,
    with_classes,
)
from finetune_keras.models.depths import split_depths
from finetune_keras.models.detectors import detector_of
from finetune_keras.models.head_split import split_head
from finetune_keras.models.model import (
    encoder_of,
    keep_adapters,
    keep_task,
    keep_trainable_set,
    text_model,
)
from finetune_keras.models.outputs import (
    in_one_piece_with_outputs,
    of_one_output,
    with_new_output,
)
from finetune_keras.models.outside_graph import with_preprocessing
from finetune_keras.models.pixel_guard import guard_like
from finetune_keras.models.pooling import padding_mask, pool, pool_depths
from finetune_keras.models.text_encoder import TextEncoder

_POOLINGS = ("avg", "max", "flatten", "token")
_GLOROT = ("tanh", "sigmoid", "softsign", "linear", "softmax", "hard_tanh")


def replace_head(
    model,
    num_classes,
    pooling="avg",
    hidden_units=(),
    activation="relu",
    dropout=0.0,
    batch_norm=False,
    kernel_regularizer=None,
    task=None,
    features=None,
    output=None,
):
    """Puts a new head in the place of a model's own.

    The head is found by the graph: the dense layers behind the pooling or the
    flatten of a whole classifier, the tail of a `Sequential`, what stands
    behind an inner backbone. A model without a head gets one. All layers below
    are the same objects, so their weights are shared with `model`.

    A segmenter, such as a U-Net, stays one: its last convolution alone gets as
    many outputs as there are classes, and probabilities stay probabilities,
    logits logits. One class is a sigmoid.

    A detector of KerasHub stays one, with the same backbone; its heads are
    copied but for the class scores, which start at a probability of 0.01.

    Args:
        model: A `keras.Model` with one output, or with several and `output`, a
            transformer backbone with `sequence_output` and `pooled_output`, or
            a detector of KerasHub.
        num_classes: Integer, number of classes, labels or regressed values.
        pooling: `"avg"`, `"max"`, `"flatten"`, or `"token"`, the pooled token
            of a transformer. An input `padding_mask`, or the mask of an
            `Embedding(mask_zero=True)`, keeps the padding of a text out of the
            former two. Defaults to `"avg"`.
        hidden_units: Tuple of integers, widths of hidden dense layers.
            Defaults to `()`.
        activation: Name or callable, of the hidden layers. He initialisation
            goes with ReLU-like, Glorot with tanh-like ones. Defaults to
            `"relu"`.
        dropout: Float in [0, 1), before each dense layer. Defaults to `0.0`.
        batch_norm: Boolean, whether hidden layers are normalised. Defaults to
            `False`.
        kernel_regularizer: A `keras.Regularizer` or its name, such as
            `keras.regularizers.L2(1e-4)`. Defaults to `None`.
        task: `"classification"` (softmax), `"multi_label"` (sigmoid),
            `"regression"` (linear), or `"segmentation"`, of a model that
            gives masks. Defaults to `None`: the last for a segmenter, else
            the first.
        features: What the head reads. `"blocks"` is the outputs of all layer
            groups of the backbone, each pooled, all concatenated; a list of
            names of groups, see `layer_groups`, those of these alone, without
            what stands above the last of them; an integer n those of the last
            n. With `pooling="token"` it is the first token and the mean of
            each sequence, and the mean of each map. Groups within a residual
            block have no output. Defaults to `None`, the last output alone.
        output: String, the name of the one of several outputs whose head is
            replaced; the others stay. Defaults to `None`, for one output.

    Returns:
        A functional `keras.Model` with float32 outputs. Inner models of
        `model` are opened in it. Of a detector, one of its class.

    Raises:
        ValueError: If `model` has no graph, or several outputs and none is
            named, if its head reads several tensors, if `features` names no
            group or one that ends in no single tensor, or if an option is out
            of range or goes with no masks.

    Example:

    ```python
    import keras, finetune_keras as ft

    vgg = keras.applications.VGG16(weights=None, input_shape=(64, 64, 3),
                                   classes=20)
    model = ft.replace_head(vgg, num_classes=10, pooling="flatten",
                            hidden_units=(32, 16), dropout=0.2)
    ft.freeze(model, vgg.layers[:-4])
    print(model.output_shape)  # (None, 10)
    deep = ft.replace_head(vgg, 10, features=["block3", "block5"])
    print(deep.get_layer("head_features").output.shape)  # (None, 768)
    ```

    Reference:
        - [He et al., 2015](https://arxiv.org/abs/1502.01852)
        - [Glorot and Bengio, 2010](
            https://proceedings.mlr.press/v9/glorot10a.html)
        - [Evci et al., 2022](https://arxiv.org/abs/2201.03529), of features
            of all depths
    """
    given = (pooling, hidden_units or (), dropout, batch_norm, features)
    if is_detector(model):
        _check_whole(model, given)
        return detector_of(model, num_classes)
    whole = model
    if output is not None:
        whole = in_one_piece_with_outputs(model)
        model = of_one_output(whole, output)

    def renew(flat, outputs):
        if output is None:
            return rebuild(flat, outputs, whole=whole)
        return with_new_output(whole, output, outputs, rebuild)

    if task == "segmentation" or (task is None and is_segmenter(model)):
        return _masks(model, num_classes, given, kernel_regularizer, renew)
    if task is None:
        refuse_overlapping(model)
    task = task or "classification"
    if features is None:
        flat, below = split_head(model)
    else:
        flat, below = split_depths(model, features)
    mask = padding_mask(flat)
    outputs = build_head(
        below,
        num_classes,
        mask,
        pooling,
        hidden_units,
        activation,
        dropout,
        batch_norm,
        kernel_regularizer,
        task,
        prefix="head" if output is None else f"{output}_head",
    )
    return renew(flat, outputs)


def _masks(model, num_classes, given, kernel_regularizer, renew):
    """A segmenter with so many classes and all its other weights."""
    check(num_classes=(num_classes, integer(1), "the classes of a mask"))
    if not is_segmenter(model):
        raise ValueError(
            "Only a model that gives maps of classes can have another number "
            "of them: its last convolution is replaced. This one gives none. "
            f"Received: model={model.name!r}, task='segmentation'"
        )
    if given != ("avg", (), 0.0, False, None):
        raise ValueError(
            "The head of a segmenter is its last convolution, for which there "
            "are no `pooling`, `hidden_units`, `dropout`, `batch_norm` and "
            "`features`. Leave them out, or make an image classifier of it by "
            f'`task="classification"`. Received: model={model.name!r}'
        )
    flat, outputs = with_classes(model, num_classes, kernel_regularizer)
    new = renew(flat, outputs)
    if Task.of(new) is None and len(new.outputs) == 1:
        # Logits look like anything else.
        keep_task(new, Task.named("segmentation", None, int(num_classes)))
    return new


def _check_whole(model, given):
    if given != ("avg", (), 0.0, False, None):
        raise ValueError(
            "A detector keeps its heads, which get another number of classes: "
            "there are no `pooling`, `hidden_units`, `dropout`, `batch_norm` "
            f"and `features`. Leave them out. Received: model={model.name!r}"
        )


def remove_head(model):
    """Cuts the head off a whole classifier.

    Args:
        model: A `keras.Model` with one output and a head.

    Returns:
        A functional `keras.Model` that gives the features below the head,
        before they are pooled or flattened. Its layers are `model`'s own.

    Raises:
        ValueError: If `model` has several outputs, no graph or no head.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    print(ft.remove_head(model).output_shape)  # (None, 7, 7, 256)
    ```
    """
    flat, features = split_head(model)
    if features is graph.graph_of(flat).outputs[0]:
        raise ValueError(
            "The model has no head to remove: it ends in features, not in a "
            "dense layer behind a pooling. Use it as it is. "
            f"Received: model={model.name!r} with output {features.shape}"
        )
    return rebuild(flat, features, whole=model)


def rebuild(model, outputs, whole=None):
    """Makes a model with new outputs on the inputs of another, of its kind.

    `whole` is what `model` was opened from, if it was: it may do something
    before its graph.
    """
    inputs, encoder = graph.graph_of(model).input, encoder_of(model)
    if encoder is None:
        new = guard_like(model, keras.Model(inputs, outputs, name=model.name))
    else:
        shape = keras.tree.flatten(outputs)[0].shape
        if shape != model.outputs[0].shape:
            encoder = TextEncoder(encoder.tokenizer, encoder.sequence_length)
        new = text_model(inputs, outputs, encoder, model.name)
    keep_trainable_set(new)
    if adapters_by_name(new):
        keep_adapters(new)
    new = with_preprocessing(model if whole is None else whole, new)
    return graph.speaks_for_its_layers(new)


def build_head(
    features,
    num_classes,
    mask=None,
    pooling="avg",
    hidden_units=(),
    activation="relu",
    dropout=0.0,
    batch_norm=False,
    kernel_regularizer=None,
    task="classification",
    prefix="head",
):
    """Adds a head to symbolic features; see `replace_head` for the options.

    A list of them is of several depths. Names of its layers begin with
    `prefix`.
    """
    task = Task.named(task)
    refuse_dense(task)
    _check_head(num_classes, pooling, hidden_units, dropout, task)
    read = pool_depths if isinstance(features, list) else pool
    x = read(features, pooling, mask, f"{prefix}_pooling")
    for i, units in enumerate(hidden_units, start=1):
        x = _drop(x, dropout, f"{prefix}_dropout_{i}")
        names = [f"{prefix}_{part}_{i}" for part in ("dense", "norm", "act")]
        x = _hidden(x, units, activation, batch_norm, kernel_regularizer, names)
    x = _drop(x, dropout, f"{prefix}_dropout")
    # Softmax in half precision loses small probabilities.
    return keras.layers.Dense(
        int(num_classes),
        activation=task.activation,
        kernel_regularizer=kernel_regularizer,
        dtype="float32",
        name=f"{prefix}_predictions",
    )(x)


def refuse_dense(task):
    """Raises where a head on pooled features is asked for masks or boxes."""
    if task.is_dense or task.activation is None:
        raise ValueError(
            "A head on pooled features gives no masks and no boxes. Take a "
            "model that gives them, such as a U-Net or a detector of KerasHub, "
            "and change its number of classes: `ft.replace_head(model, "
            f"num_classes)`. Received: task={task!r}"
        )


def build_vectors(features, mask, pooling, normalize, units=None):
    """Adds to symbolic features what makes one vector of each input."""
    check(
        pooling=(pooling, one_of("avg", "max", "token")),
        normalize=(normalize, one_of(True, False)),
        units=(units, maybe(integer(1))),
    )
    x = pool(features, pooling, mask)
    if units is not None:
        x = keras.layers.Dense(units, dtype="float32", name="head_vectors")(x)
    if normalize:
        x = keras.layers.UnitNormalization(dtype="float32", name="head_unit")(x)
    return x


def _drop(x, rate, name):
    return keras.layers.Dropout(rate, name=name)(x) if rate else x


def _hidden(x, units, activation, batch_norm, regularizer, names):
    function = keras.activations.get(activation)
    name = getattr(function, "__name__", "")
    x = keras.layers.Dense(
        units,
        activation=None if batch_norm else function,
        use_bias=not batch_norm,
        kernel_initializer="glorot_uniform" if name in _GLOROT else "he_normal",
        kernel_regularizer=regularizer,
        name=names[0],
    )(x)
    if not batch_norm:
        return x
    x = keras.layers.BatchNormalization(name=names[1])(x)
    return keras.layers.Activation(function, name=names[2])(x)


def _check_head(num_classes, pooling, hidden_units, dropout, task):
    meaning = (
        f"the classes of a {task}. Two classes are `num_classes=2`; a single "
        'sigmoid is `task="multi_label"` with one label'
    )
    check(
        num_classes=(num_classes, integer(task.fewest), meaning),
        pooling=(pooling, one_of(*_POOLINGS)),
        dropout=(dropout, part, "that of the inputs"),
    )
    if not isinstance(hidden_units, (list, tuple)) or any(
        not isinstance(units, numbers.Integral) or units < 1
        for units in hidden_units
    ):
        raise ValueError(
            "`hidden_units` must be a tuple of positive integers, such as "
            f"`(256, 128)`. Received: hidden_units={hidden_units!r}"
        )
