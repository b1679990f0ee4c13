"""Models that write text: what they learn, and how their graph learns it."""

import contextlib
import inspect
import warnings

import keras
from keras import ops

from finetune_keras.data.task import Task
from finetune_keras.engine.nodes import maker_of
from finetune_keras.engine.packages import keras_hub
from finetune_keras.models.inline import (
    make_names_unique,
    new_inputs,
    replay,
)
from finetune_keras.models.text_encoder import check_texts
from finetune_keras.text.pair_tokens import reads_pairs
from finetune_keras.text.sound_tokens import (
    decoder_start,
    hears,
    read_sounds,
    sound_batches,
)

_MASKS = "decoder_padding_mask", "padding_mask"


class TextGeneration(Task):
    """Text that goes on, token by token."""

    name, noun = "text_generation", "measures"
    main_metric = "perplexity"
    is_judged = has_chances = False
    are_sequences = True

    def predict(self, model, x, batch_size=32, verbose=0):
        """What a model writes after each prompt, the likeliest each time."""
        x = x if hears(model) else check_texts(x)
        return write(model, x, batch_size=batch_size)

    def plain(self, label):
        return str(label)

    def chance(self, scores, true, chosen):
        return None

    def misfit(self, y, outputs, rows):
        """What is wrong with arrays of a report, or `None`."""
        if y.shape != (rows,) or len(outputs) != rows or outputs.ndim != 2:
            return f"its texts and measures are not of {rows} examples"
        return None

    def compile_arguments(self, one_hot=False):
        """What `compile` takes for it, the loss a mean over the tokens."""
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        metric = keras.metrics.SparseCategoricalAccuracy()
        return {"loss": loss, "weighted_metrics": [metric]}


def write(model, texts, max_length=None, batch_size=32, greedy=True):
    """List of what a model writes after each of some prompts, or sounds.

    Args:
        model: A `CausalLM` of KerasHub with a preprocessor.
        texts: List of strings, or of what `read_sounds` takes.
        max_length: Integer, the most tokens of a prompt and what follows.
            Defaults to `None`, that of the preprocessor.
        batch_size: Integer. Defaults to `32`.
        greedy: Boolean, whether the likeliest token is taken each time, and
            not what the compiled sampler draws. Defaults to `True`.
    """
    written, texts = [], list(texts)
    size, strip = min(batch_size, len(texts)), not reads_pairs(model)
    with greedily(model) if greedy else contextlib.nullcontext():
        if hears(model):
            return _transcribe(model, texts, max_length, batch_size)
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            # One shape for all: what is left over is filled up.
            full = part + part[-1:] * (size - len(part))
            found = model.generate(full, max_length, strip_prompt=strip)
            written += found[: len(part)]
    return written


def _transcribe(model, sounds, max_length, batch_size):
    """List of what is said in sounds.

    Not by `generate`, which takes samples that are 0 for padding.
    """
    preprocessor, waves = model.preprocessor, read_sounds(model, sounds)
    written, function = [""] * len(waves), model.make_generate_function()
    ends = (preprocessor.tokenizer.end_token_id,)
    for places, batch in sound_batches(model, waves, batch_size):
        batch = {**decoder_start(model, batch, max_length), **batch}
        batch = keras.tree.map_structure(ops.convert_to_tensor, batch)
        found = function(batch, stop_token_ids=ends)
        texts = preprocessor.generate_postprocess(found)
        for place, text in zip(places, texts, strict=False):
            written[place] = text
    return written


@contextlib.contextmanager
def greedily(model):
    """Lets a model write the likeliest; its own sampler comes back."""
    own = getattr(model, "sampler", None)
    function = getattr(model, "generate_function", None)
    model.sampler = keras_hub.samplers.GreedySampler()
    model.generate_function = None
    try:
        yield
    finally:
        model.sampler, model.generate_function = own, function


def by_token(arguments):
    """Arguments of `compile`, Keras's usual loss as a mean over the tokens.

    It would count those of no weight as well, and their share differs from
    batch to batch.
    """
    loss = arguments.get("loss")
    usual = type(loss) is keras.losses.SparseCategoricalCrossentropy
    if not usual or loss.reduction != "sum_over_batch_size":
        return arguments
    config = {**loss.get_config(), "reduction": "mean_with_sample_weight"}
    return {**arguments, "loss": type(loss).from_config(config)}


def for_answers(model, steps, packing=False):
    """A flat graph of a model that writes, for the tokens of answers alone.

    It shares all layers, and has an input more, `answer_positions`: outputs
    are made at these alone, since those of a large vocabulary are a good part
    of the work. With `packing` the numbers in the padding mask tell examples
    of a window apart.
    """
    make_names_unique(steps, ())
    inputs, last = new_inputs(model), _scores_of(model)
    places = keras.Input((None,), dtype="int32", name="answer_positions")
    packed = _Packed(inputs["padding_mask"]) if packing else None

    def call(operation, *args, **kwargs):
        if packed is not None:
            kwargs = packed.told_apart(operation, kwargs)
        # The same layer embeds the tokens, which are integers.
        if operation is last and "int" not in args[0].dtype:
            args = (_taken(args[0], places), *args[1:])
        return operation(*args, **kwargs)

    _, outputs = replay(model, inputs, call, closed=())
    if packed is not None:
        packed.warn()
    if last is None:
        outputs = _taken(outputs, places)
    inputs = {**inputs, "answer_positions": places}
    return keras.Model(inputs, outputs, name=model.name)


def _taken(x, places):
    return ops.take_along_axis(x, places[..., None], axis=1)


def _scores_of(model):
    """The last layer, where it makes the scores of each token alone."""
    operation, _ = maker_of(model.outputs[0])
    kinds = (keras.layers.Dense, keras.layers.Embedding)
    return operation if isinstance(operation, kinds) else None


class _Packed:
    """Several examples in a window, kept apart where the layers allow it."""

    def __init__(self, numbers):
        self.padding = ops.minimum(numbers, 1)
        self.same = ops.equal(numbers[:, :, None], numbers[:, None, :])
        places = ops.cumsum(ops.ones_like(numbers), axis=1)
        late = ops.where(self.same, places[:, None, :], 2**30)
        self.positions = places - ops.min(late, axis=-1)
        self.joined, self.going_on = [], []

    def told_apart(self, operation, kwargs):
        """The arguments of a call, with the masks that keep examples apart."""
        if not isinstance(operation, keras.layers.Layer):
            return kwargs
        known = inspect.signature(operation.call).parameters
        name = next((name for name in _MASKS if name in kwargs), None)
        if name is not None:
            kwargs = {**kwargs, name: self.padding}
            if "decoder_attention_mask" in known:
                kwargs["decoder_attention_mask"] = self.same
            else:
                self.joined.append(type(operation).__name__)
        if type(operation).__name__ == "PositionEmbedding":
            if "positions" in known:
                kwargs = {**kwargs, "positions": self.positions}
            else:
                self.going_on.append(operation.name)
        return kwargs

    def warn(self):
        if self.joined:
            warnings.warn(
                f"`{self.joined[0]}` takes no attention mask, so that in "
                "packed windows each example sees those before it. Without "
                "`packing=True` none does.",
                stacklevel=2,
            )
        elif self.going_on:
            warnings.warn(
                f"The positions of {self.going_on[0]!r} go on from one example "
                "of a packed window to the next, where they do not begin anew.",
                stacklevel=2,
            )
