"""Published fine-tuning strategies, each a function that returns a plan.

The defaults are for small sets (hundreds to thousands of examples), Adam or
AdamW, and backbones from MobileNet to BERT: 1e-3 for a new head, and for
pretrained layers a rate that BERT still stands. Convolutional networks take
more, 1e-4 to 3e-4 in all layers; large transformers less, 1e-5 to 3e-5.
"""

import collections.abc

from finetune_keras.arguments import check, integer
from finetune_keras.plans.plan import Phase, Plan


def linear_probe(epochs=20, learning_rate=1e-3, patience=None):
    """Trains the head alone, on frozen features.

    The cheapest strategy, and the yardstick for all others. Best where there is
    little data, or the backbone was trained on data like yours.

    A dense head under a cross-entropy, or the squared error of values, is
    solved by one pass over the data, and needs no epochs: logistic regression
    to its end, with a penalty chosen by cross-validation, or ridge. The
    history says what was done, and the metrics, in `phases[0]`.

    Args:
        epochs: Integer, where the head cannot be solved. Defaults to `20`.
        learning_rate: Float, of these. The default is for Adam and any
            backbone, since no pretrained weight moves. Defaults to `1e-3`.
        patience: Integer, see `Phase`. Defaults to `None`.

    Returns:
        A `Plan` of one phase.

    Example:

    ```python
    import finetune_keras as ft

    print(ft.plans.linear_probe(epochs=10))
    ```

    Reference:

    - [Alain and Bengio, 2016](https://arxiv.org/abs/1610.01644)
    """
    phase = Phase("head", epochs, learning_rate, patience)
    return Plan([phase], head_initializer="auto")


def top_layers(n=2, epochs=10, learning_rate=1e-4, patience=None):
    """Trains the head and the last n layer groups, all at one rate.

    The features near the input are general and stay; those near the head are
    specific to the old task and adapt.

    Args:
        n: Integer, number of groups before the head. Defaults to `2`.
        epochs: Integer. Defaults to `10`.
        learning_rate: Float. The default is for Adam; BERT takes 2e-5 to 1e-4,
            convolutional networks up to 1e-3. Defaults to `1e-4`.
        patience: Integer, see `Phase`. Defaults to `None`.

    Returns:
        A `Plan` of one phase. For a head that is new, train it first:
        `ft.Plan([*ft.plans.linear_probe(5), *ft.plans.top_layers(2)])`.

    Example:

    ```python
    import finetune_keras as ft

    print(ft.plans.top_layers(3, learning_rate=3e-4))
    ```

    Reference:

    - [Yosinski et al., 2014](https://arxiv.org/abs/1411.1792)
    """
    return Plan([Phase(n, epochs, learning_rate, patience)])


def full(epochs=10, learning_rate=5e-5, patience=None):
    """Trains all layers from the start, at one rate that falls to 0.

    Best where there is much data, or data unlike that of the backbone. With a
    new head, `linear_probe_then_full` spoils the features less.

    Args:
        epochs: Integer. BERT needs 3 or 4. Defaults to `10`.
        learning_rate: Float. The default is the top of what BERT stands (1e-5
            to 5e-5 with Adam); convolutional networks take 1e-4 to 3e-4.
            Defaults to `5e-5`.
        patience: Integer, see `Phase`. Defaults to `None`.

    Returns:
        A `Plan` of one phase with a cosine schedule.

    Example:

    ```python
    import finetune_keras as ft

    print(ft.plans.full(epochs=3, learning_rate=2e-5))
    ```

    Reference:

    - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), for the rates
    """
    phase = Phase("all", epochs, learning_rate, patience, schedule="cosine")
    return Plan([phase])


def discriminative(epochs=10, learning_rate=1e-4, decay=0.8, patience=None):
    """Trains all layers, each group slower than the one nearer the head.

    Args:
        epochs: Integer. Defaults to `10`.
        learning_rate: Float, the rate of the head. The default is for Adam and,
            thanks to the decay, for BERT too; convolutional networks take up to
            1e-3. Defaults to `1e-4`.
        decay: Float in (0, 1]. Factor on the rate for each group. The default
            is for backbones of 6 to 20 groups. The paper divides by 2.6 (0.385)
            in a network of 4, which would stop a deep one. Defaults to `0.8`.
        patience: Integer, see `Phase`. Defaults to `None`.

    Returns:
        A `Plan` of one phase with a one-cycle schedule, which stands for the
        slanted triangle of the paper.

    Example:

    ```python
    import finetune_keras as ft

    print(ft.plans.discriminative(epochs=5, decay=0.9))
    ```

    Reference:

    - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)
    """
    phase = Phase(
        "all", epochs, learning_rate, patience, decay, schedule="one_cycle"
    )
    return Plan([phase])


def gradual(
    num_groups,
    epochs=1,
    last_epochs=10,
    head_learning_rate=1e-3,
    learning_rate=1e-4,
    decay=0.8,
    patience=None,
):
    """Unfreezes one group at a time, from the head towards the input.

    Args:
        num_groups: Integer, number of groups that train in the end, the head
            counted: `len(ft.layer_groups(model))` for all. Each is a phase, and
            each phase traces the training step again: in a deep model stop
            after a few.
        epochs: Integer, for each phase but the last. Defaults to `1`.
        last_epochs: Integer, for the last phase. Defaults to `10`.
        head_learning_rate: Float, while the head trains alone. Defaults to
            `1e-3`.
        learning_rate: Float, the rate of the head in the later phases. The
            default is for Adam and, thanks to the decay, for BERT too;
            convolutional networks take up to 1e-3. Defaults to `1e-4`.
        decay: Float in (0, 1]. Factor on the rate for each group further from
            the head, see `discriminative`. Defaults to `0.8`.
        patience: Integer, for the last phase, see `Phase`. Defaults to `None`.

    Returns:
        A `Plan` of `num_groups` phases, for a model with a head.

    Raises:
        ValueError: If `num_groups` is not an integer of at least 1.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    plan = ft.plans.gradual(len(ft.layer_groups(model)))
    plan.check(ft.layer_groups(model))
    print(plan)
    ```

    Reference:

    - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)
    """
    meaning = "the groups that train in the end, the head counted"
    check(num_groups=(num_groups, integer(1), meaning))
    phases = []
    for n in range(num_groups):
        last = n == num_groups - 1
        phases.append(
            Phase(
                n or "head",
                epochs=last_epochs if last else epochs,
                learning_rate=learning_rate if n else head_learning_rate,
                patience=patience if last else None,
                layerwise_lr_decay=decay if n else None,
            )
        )
    return Plan(phases)


def linear_probe_then_full(
    head_epochs=10,
    epochs=5,
    head_learning_rate=1e-3,
    learning_rate=1e-4,
    patience=None,
):
    """Trains the head alone, then all layers at a low rate that falls to 0.

    The gradients of a random head spoil pretrained features before the head has
    learned anything; a trained one leaves them be. The first strategy to
    try when the data are unlike those of the backbone.

    Where the head can be solved, as in `linear_probe`, one pass over the data
    does it, and the first phase is left out.

    The defaults do well on some hundred photos with a small convolutional
    network, see `benchmarks/probe_then_full.py`.

    Args:
        head_epochs: Integer, epochs of the head alone, where it cannot be
            solved. Defaults to `10`.
        epochs: Integer, epochs of all layers. BERT needs 3 or 4. Defaults to
            `5`.
        head_learning_rate: Float, for the head alone. Defaults to `1e-3`.
        learning_rate: Float, for all layers. The default is for convolutional
            networks; BERT stands 1e-5 to 5e-5 with Adam. Defaults to `1e-4`.
        patience: Integer, for both phases, see `Phase`. Defaults to `None`.

    Returns:
        A `Plan` of two phases.

    Example:

    ```python
    import finetune_keras as ft

    plan = ft.plans.linear_probe_then_full(learning_rate=2e-4)
    print(plan)
    ```

    Reference:

    - [Kumar et al., 2022](https://arxiv.org/abs/2202.10054)
    """
    return Plan(
        [
            *linear_probe(head_epochs, head_learning_rate, patience),
            *full(epochs, learning_rate, patience),
        ],
        head_initializer="auto",
    )


def chain_thaw(
    groups,
    epochs=2,
    last_epochs=10,
    head_learning_rate=1e-3,
    learning_rate=5e-5,
    patience=None,
):
    """Trains the head, then each group alone from the input on, then all.

    One group at a time moves little, which guards against overfitting. It is
    slow: a phase for each group, and each traces the training step again.

    Args:
        groups: List of `LayerGroup`s, from `layer_groups(model)` or cut from
            it, or of their names. The head may be among them or not.
        epochs: Integer, for each phase but the last. Defaults to `2`.
        last_epochs: Integer, for the last phase, all layers. Defaults to `10`.
        head_learning_rate: Float, while the head trains alone. Defaults to
            `1e-3`.
        learning_rate: Float, in all later phases. The default is the top of
            what BERT stands (1e-5 to 5e-5 with Adam); the paper's network and
            convolutional ones take 1e-4 to 3e-4. Defaults to `5e-5`.
        patience: Integer, for every phase, see `Phase`; in the paper each runs
            until the validation loss stops falling. Defaults to `None`.

    Returns:
        A `Plan` of one phase more than there are groups, the head counted.

    Raises:
        ValueError: If `groups` is not a list of groups or names.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    plan = ft.plans.chain_thaw(ft.layer_groups(model), patience=1)
    plan.check(ft.layer_groups(model))
    print(plan)
    ```

    Reference:

    - [Felbo et al., 2017](https://arxiv.org/abs/1708.00524)
    """
    names = _names(groups)
    return Plan(
        [
            Phase("head", epochs, head_learning_rate, patience),
            *(Phase(name, epochs, learning_rate, patience) for name in names),
            Phase("all", last_epochs, learning_rate, patience),
        ]
    )


def adapters(epochs=5, learning_rate=1e-3, name="default", patience=None):
    """Trains adapters and the head; what they were added to stays frozen.

    A model without a head, as one that writes text, trains adapters alone.

    Args:
        epochs: Integer. Defaults to `5`.
        learning_rate: Float. Adapters take about ten times the rate of full
            fine-tuning. Defaults to `1e-3`.
        name: String, the name that the adapters were added under. Defaults to
            `"default"`.
        patience: Integer, see `Phase`. Defaults to `None`.

    Returns:
        A `Plan` of one phase with a cosine schedule.

    Example:

    ```python
    import keras, finetune_keras as ft

    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = ft.replace_head(backbone, 2)
    ft.add_adapters(model, ft.LoRA(rank=2), "dense.*")
    plan = ft.plans.adapters(epochs=3)
    plan.check(ft.layer_groups(model))
    ```

    Reference:

    - [Hu et al., 2021](https://arxiv.org/abs/2106.09685)
    """
    layers = [f"adapter_{name}", "head"]
    phase = Phase(layers, epochs, learning_rate, patience, schedule="cosine")
    return Plan([phase])


def _names(groups):
    is_list = isinstance(groups, collections.abc.Sequence)
    if is_list and not isinstance(groups, str):
        names = [getattr(group, "name", group) for group in groups]
        if names and all(isinstance(name, str) for name in names):
            return [name for name in names if name != "head"]
    raise ValueError(
        "`groups` must be a list of layer groups, or of their names, from the "
        "input to the head, such as `ft.layer_groups(model)`. "
        f"Received: groups={groups!r}"
    )
