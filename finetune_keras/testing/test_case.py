"""The contracts, as assertions of a `unittest.TestCase`."""

import json
import re
import unittest

import keras
import numpy as np

from finetune_keras.engine import backend
from finetune_keras.testing import fresh_process
from finetune_keras.testing.arrays import (
    call,
    predict,
    random_arrays,
    random_targets,
    symbols_like,
    to_numpy,
)
from finetune_keras.testing.configs import config_keys, is_plain
from finetune_keras.testing.fresh_process import without_numbers
from finetune_keras.testing.weights import (
    live_statistics,
    named_weights,
    randomize,
    weights_snapshot,
)

_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


class TestCase(unittest.TestCase):
    """A `unittest.TestCase` with the contracts of fine-tuning.

    They hold on each backend of Keras. `check_layer` runs all that apply to a
    layer.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft
    from finetune_keras import testing

    class HeadTest(testing.TestCase):
        def test_only_the_head_moves(self):
            inputs = keras.Input((4,))
            x = keras.layers.Dense(3, name="body")(inputs)
            model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
            testing.randomize(model)
            ft.freeze(model, "body")
            model.compile("sgd", "mse")
            x, y = np.random.rand(8, 4), np.random.rand(8, 2)
            self.assert_fit_moves(model, x, y, trained=["head"])

    HeadTest("test_only_the_head_moves").debug()
    ```
    """

    # === Configuration ===

    def assert_config_complete(self, obj):
        """Asserts that an object is rebuilt from its config, with everything.

        Each argument of each constructor up to Keras's own class must be a
        key of `get_config`, with the value of the attribute of that name.
        What Keras's class puts there must not be lost. Through JSON and back,
        the config must be the same.

        Args:
            obj: A layer, optimizer, callback or any object with `get_config`.

        Raises:
            AssertionError: If an argument is missing, wrong or does not
                survive; the message names it.
        """
        name = type(obj).__name__
        if not hasattr(obj, "get_config"):
            self.fail(f"`{name}` has no `get_config`.")
        config = obj.get_config()
        missing = sorted(config_keys(obj) - set(config))
        if missing:
            self.fail(f"`{name}.get_config()` lacks {missing}.")
        for key, value in config.items():
            held = getattr(obj, key, value)
            if is_plain(held) and is_plain(value) and held != value:
                self.fail(
                    f"`{name}.get_config()` has {key}={value!r}, but the "
                    f"attribute is {held!r}."
                )
        saved = keras.saving.serialize_keras_object(obj)
        loaded = keras.saving.deserialize_keras_object(
            json.loads(json.dumps(saved)),
            custom_objects={saved["registered_name"] or name: type(obj)},
        )
        again = keras.saving.serialize_keras_object(loaded)
        self.assertEqual(
            json.loads(json.dumps(saved["config"])),
            json.loads(json.dumps(again["config"])),
            f"`{name}` has another config after `from_config`.",
        )

    # === Saving ===

    def assert_saves(self, model, inputs, imports=()):
        """Asserts that `.keras` brings the model back in a fresh process.

        The new process imports Keras and `finetune_keras` only, and loads
        with plain `keras.models.load_model`. Predictions must be equal to
        1e-5, weights must have the same paths, and the same ones must be
        trainable. Numbers that Keras gives to layers inside a composite layer
        may differ.

        Args:
            model: A `keras.Model`, built.
            inputs: NumPy array, or list or dict of them.
            imports: List of modules to import first, which register classes
                of your own: names, or paths of Python files. Defaults to
                `()`.

        Returns:
            Dict of what was loaded: `outputs`, a list of arrays, and
            `weights` and `trainable`, lists of paths.

        Raises:
            AssertionError: If it cannot be loaded or differs.
        """
        try:
            loaded = fresh_process.reload(model, inputs, imports)
        except RuntimeError as error:
            self.fail(
                "The model does not load in a fresh process. Register classes "
                "of your own in a module that `imports` names.\n" + str(error)
            )
        self._assert_same_weights(fresh_process.describe(model), loaded)
        outputs = predict(model, inputs)
        for one, other in zip(outputs, loaded["outputs"], strict=True):
            np.testing.assert_allclose(
                other, one, 1e-5, 1e-5, err_msg="The loaded model differs."
            )
        return loaded

    def _assert_same_weights(self, saved, loaded):
        stable = [without_numbers(path) for path in saved["weights"]]
        self.assertEqual(
            stable,
            [without_numbers(path) for path in loaded["weights"]],
            "The loaded model has other weights.",
        )
        flags = [path in saved["trainable"] for path in saved["weights"]]
        wrong = [
            path
            for path, flag in zip(loaded["weights"], flags, strict=True)
            if flag != (path in loaded["trainable"])
        ]
        if wrong:
            self.fail(f"Trainable flags differ after loading: {wrong}.")

    # === Training ===

    def assert_fit_moves(self, model, x, y=None, trained=None, states=None):
        """Asserts that one training step moves the right weights only.

        Whatever is not trainable must stay equal to the bit, whatever is must
        move. Statistics of a `BatchNormalization` must move where it is
        trainable and stay where it is frozen. The model is trained by this.

        Args:
            model: A compiled `keras.Model`. Where a weight may have no
                gradient at first, such as the A of a new LoRA, use
                `randomize` before.
            x: Inputs, as for `fit`; one batch.
            y: Targets, as for `fit`. Defaults to `None`.
            trained: List of regular expressions, matched from the start of
                the path. They must tell exactly the weights that are
                trainable. Defaults to whatever is.
            states: List of such expressions for the weights that are not
                trainable and yet move. Defaults to the statistics of
                unfrozen `BatchNormalization`.

        Raises:
            AssertionError: If a weight should move and does not, or the
                reverse; the message names it.
        """
        weights = named_weights(model)
        ids = {id(v) for v in model.trainable_variables}
        moving = {path for path, v in weights.items() if id(v) in ids}
        if trained is not None:
            self._assert_trained(trained, weights, moving)
        if states is None:
            moving |= live_statistics(model)
        else:
            moving |= _matching(states, weights)
        before = weights_snapshot(model)
        first = keras.tree.flatten(x)[0]
        size = len(first) if hasattr(first, "shape") else None
        model.fit(x, y, batch_size=size, epochs=1, verbose=0)
        after = weights_snapshot(model)
        moved = {p for p in before if before[p].tobytes() != after[p].tobytes()}
        wild = {p for p in moved if not np.isfinite(after[p]).all()}
        for message, paths in (
            ("Frozen, but moved", moved - moving),
            ("Should move, but did not", moving - moved),
            ("Not finite after the step", wild),
        ):
            if paths:
                self.fail(f"{message}: {sorted(paths)}.")

    def _assert_trained(self, patterns, weights, trainable):
        expected = _matching(patterns, weights)
        unused = [p for p in patterns if not _matching([p], weights)]
        if unused:
            self.fail(f"No weight matches {unused}. Paths: {list(weights)}.")
        if expected != trainable:
            self.fail(
                f"Should be trainable: {sorted(expected - trainable)}. Should "
                f"be frozen: {sorted(trainable - expected)}."
            )

    # === Layers ===

    def assert_dtype_policies(
        self, layer_factory, input_shape, input_dtype="float32"
    ):
        """Asserts that a layer obeys mixed precision.

        Under each policy its outputs have the compute dtype, symbolically
        and in fact, and its weights are float32.

        Args:
            layer_factory: Callable that takes `dtype` and makes a layer.
            input_shape: Tuple of integers, with the batch; or list or dict of
                such tuples.
            input_dtype: String. Defaults to `"float32"`.

        Raises:
            AssertionError: If a dtype is wrong; the message names the policy.
        """
        x = random_arrays(input_shape, input_dtype)
        for policy in _POLICIES:
            if policy == "mixed_float16" and _lacks_float16():
                continue
            layer = layer_factory(dtype=policy)
            symbols = layer(symbols_like(x))
            outputs = keras.tree.flatten([symbols, call(layer, x)])
            dtypes = {keras.backend.standardize_dtype(y.dtype) for y in outputs}
            wrong = {d for d in dtypes if "float" in d} - {layer.compute_dtype}
            if wrong:
                self.fail(
                    f"Under {policy!r} outputs are {wrong}, expected "
                    f"{layer.compute_dtype!r}."
                )
            for path, variable in named_weights(layer).items():
                if "float" in variable.dtype and variable.dtype != "float32":
                    self.fail(f"Under {policy!r} {path} is {variable.dtype}.")

    def check_layer(
        self,
        layer_class,
        init_kwargs,
        input_shape,
        output_shape=None,
        input_dtype="float32",
        states=None,
        imports=(),
    ):
        """Runs every contract of a layer.

        Its config, `build` against a first call, symbolic against eager
        results, mixed precision, one training step, save and load in a fresh
        process.

        Args:
            layer_class: Class of the layer, registered with
                `keras.saving.register_keras_serializable`.
            init_kwargs: Dict, arguments of the constructor. Give each another
                value than its default.
            input_shape: Tuple of integers, with the batch; or list or dict of
                such tuples.
            output_shape: Tuple of integers, with the batch, or `None` not to
                check it. Defaults to `None`.
            input_dtype: String. Defaults to `"float32"`.
            states: See `assert_fit_moves`. Defaults to `None`.
            imports: See `assert_saves`. Defaults to `()`.

        Raises:
            AssertionError: If a contract is broken.
        """
        layer = layer_class(**init_kwargs)
        self.assert_config_complete(layer)
        x = random_arrays(input_shape, input_dtype)
        inputs = symbols_like(x)
        model = randomize(keras.Model(inputs, layer(inputs)))
        self._assert_builds_alone(layer, input_shape)
        self._assert_symbolic_is_eager(model, layer, x, output_shape)
        self.assert_dtype_policies(
            lambda dtype: layer_class(**{**init_kwargs, "dtype": dtype}),
            input_shape,
            input_dtype,
        )
        if model.trainable_variables:
            model.compile(keras.optimizers.Adam(0.01), "mse")
            y = random_targets(model, x)
            self.assert_fit_moves(model, x, y, states=states)
        self.assert_saves(model, x, imports)

    def _assert_builds_alone(self, layer, input_shape):
        alone = type(layer).from_config(layer.get_config())
        alone.build(input_shape)
        shapes, expected = (
            [(tuple(v.shape), v.trainable) for v in named_weights(x).values()]
            for x in (alone, layer)
        )
        self.assertEqual(shapes, expected, "`build` makes other weights.")

    def _assert_symbolic_is_eager(self, model, layer, x, output_shape):
        eager = keras.tree.flatten(call(layer, x))
        for symbol, one, other in zip(
            model.outputs, eager, predict(model, x), strict=True
        ):
            self.assertEqual(tuple(symbol.shape[1:]), tuple(one.shape[1:]))
            np.testing.assert_allclose(other, to_numpy(one), 1e-5, 1e-5)
        if output_shape is not None:
            self.assertEqual(tuple(eager[0].shape), tuple(output_shape))


def _matching(patterns, paths):
    return {p for p in paths if any(re.match(x, p) for x in patterns)}


def _lacks_float16():
    return backend.on("torch")
