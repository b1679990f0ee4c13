"""What an explanation looks at: photos or texts, inside of a model."""

import keras
import numpy as np

from finetune_keras.arguments import check_model
from finetune_keras.data.labels import as_text
from finetune_keras.data.outputs import check_shape, loss_of
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.engine.nodes import pack_inputs
from finetune_keras.models.model import encoder_of
from finetune_keras.models.outside_graph import prepares_inputs
from finetune_keras.models.text_encoder import is_raw
from finetune_keras.models.trainable_set import quantized_layers
from finetune_keras.results.inside import (
    has_kernels,
    heat_maps,
    in_patches,
    is_cut,
    map_taps,
    mean_colors,
    token_taps,
)
from finetune_keras.results.raw_inputs import NO_FACTS, read_inputs


def seen_by(model, x):
    """`Photos` or `Texts` of a batch, or of one example."""
    if _has_no_graph(model):
        model = _in_graph(model, x)
    _check(model)
    kind = Photos if encoder_of(model) is None else Texts
    seen = kind(model, x)
    if not seen.shown:
        raise ValueError("There is no example. Received: x=[]")
    return seen


class Photos:
    """Photos as a model takes them, and the maps inside of it.

    `model` is what to call, `x` the whole batch, `shown` a list of the
    examples for people, and `taps` tell where the model is looked into:
    `None` where nothing inside can be laid over a photo, but its pixels can.
    """

    def __init__(self, model, x):
        self.model = model
        _check_photos(model)
        array = read_inputs(_array(x), model, NO_FACTS)
        self.x, self.shown = pack_inputs(model, [array]), list(array)
        first = keras.config.image_data_format() == "channels_first"
        self.size = array.shape[2:] if first else array.shape[1:3]
        self.taps = map_taps(model)
        if self.taps is None or is_cut(model, *self.size):
            self.taps = None
            _check_pixels(model)

    def measure(self, attribution, x, columns, part):
        """Lists the heat maps of a part of the photos, `x`."""
        if self.taps is None:
            (photos,) = attribution.tensors
            products = attribution.products(x, columns, [mean_colors(photos)])
            products = [in_patches(one) for one in products]
        else:
            products = attribution.products(x, columns)
        return list(heat_maps(products, *self.size))


def _array(x):
    if isinstance(x, (list, tuple)):
        photos = [np.asarray(one) for one in x]
        shapes = {photo.shape for photo in photos}
        if len(shapes) != 1:
            raise ValueError(
                "Pass at least one photo, and several only of one size. "
                f"Received: a list of {len(photos)} photos, of shapes "
                f"{sorted(shapes)}"
            )
        x = np.stack(photos)
    x = keras.ops.convert_to_numpy(x) if keras.ops.is_tensor(x) else x
    x = np.asarray(x)
    if x.dtype.kind in "OSU":
        raise ValueError(
            "Pass photos as arrays, as `model.predict` takes them. A `Bundle`, "
            "as of `ft.load_bundle`, reads files by their paths. "
            f"Received: x of dtype {x.dtype}"
        )
    return x[None] if x.ndim == 3 else x


class Texts:
    """Texts as token ids, and their embeddings in a model; as `Photos`."""

    def __init__(self, model, x):
        self.model, self.taps = model, token_taps(model)
        if self.taps is None:
            why = "no `Embedding` layer reads its token ids"
            _refuse(model, why, "Models of `ft.text_classifier` have one")
        if not is_raw(x):
            raise ValueError(
                "Pass texts: a string, a list of them, or for pairs a tuple of "
                f"two lists. Received: x of type {type(x).__name__}"
            )
        self.tokenizer = model.encoder.tokenizer
        arrays, self.lengths = model.encoder.encode(x)
        self.x = {y.name: arrays[y.name] for y in model.inputs}
        rows = zip(arrays["token_ids"], self.lengths, strict=True)
        spell = self.tokenizer.id_to_token
        self.shown = [
            [as_text(spell(int(i))) for i in row[:length]]
            for row, length in rows
        ]

    def measure(self, attribution, x, columns, part):
        """Lists what each token adds, of a part of the texts, `x`.

        In BERT and its like the gradient at the text itself tells little: what
        is sure is past the slope that made it so.
        """
        products = attribution.products(
            x, columns, self._masked(attribution, x)
        )
        rows = zip(products[0].sum(axis=-1), self.lengths[part], strict=True)
        return [row[:length] for row, length in rows]

    def _masked(self, attribution, x):
        """The embeddings of texts whose words are all masked, or zero."""
        ids, known = x["token_ids"], self.tokenizer
        kept = known.start_token_id, known.end_token_id, known.pad_token_id
        words = ~np.isin(ids, kept)
        mask = getattr(known, "mask_token_id", None)
        if mask is not None:
            masked = np.where(words, mask, ids).astype(ids.dtype)
            return attribution.starts({**x, "token_ids": masked})
        (tensor,) = attribution.tensors
        return [tensor * keras.ops.cast(~words[..., None], tensor.dtype)]


# === At the door ===


def _has_no_graph(model):
    """Tells a subclassed model that has its weights."""
    is_model = isinstance(model, keras.Model) and model.built
    return is_model and graph.graph_of(model) is None


def _in_graph(model, x):
    """A model without a graph as the only step of one, on such photos."""
    if prepares_inputs(model):
        return model
    shape = _array(x).shape[1:]
    inputs = keras.Input(shape, name="photos")
    new = keras.Model(inputs, model(inputs), name=model.name)
    for name in ("task", "class_names"):
        known = getattr(model, name, None)
        if known is not None:
            setattr(new, name, known)
    loss = loss_of(model)
    if loss is not None:
        new.compile(loss=loss)
    return new


def _check(model):
    check_model(model)
    if not isinstance(model, keras.Model) or graph.graph_of(model) is None:
        raise ValueError(
            "Only a functional or sequential model that has been built, or a "
            "`Bundle`, can be explained. Give the model an `Input`, or call it "
            f"on data once. Received: model={model!r}"
        )
    outputs = model.outputs
    check_shape(outputs if len(outputs) > 1 else outputs[0], "explain")
    task = Task.of(model)
    if task is not None and not task.is_judged:
        _refuse(model, f"it predicts {task}", "Explain a text classifier")
    if len(model.inputs) > 1 and encoder_of(model) is None:
        why = f"it has {len(model.inputs)} inputs"
        _refuse(model, why, "Explain one that takes photos, or texts, alone")
    if prepares_inputs(model):
        why = "it prepares its inputs outside of its graph"
        _refuse(model, why, "Pass `ft.inline_models(model)`")
    if quantized_layers(model):
        why = "it is quantised, and through integers lead no gradients"
        _refuse(model, why, "Explain it as it was before")


def _refuse(model, why, how):
    raise ValueError(
        f"The model cannot be explained by gradients: {why}. {how}. "
        f"Received: model={model.name!r}"
    )


def _check_photos(model):
    (tensor,) = model.inputs
    if len(tensor.shape) != 4:
        _refuse(
            model,
            f"its inputs are no photos or texts, but of shape {tensor.shape}",
            "Which columns of a table count tells the `permutation_importance` "
            "of scikit-learn",
        )


def _check_pixels(model):
    if not has_kernels(model):
        _refuse(
            model,
            "it has no maps of features that layers with kernels make, nor "
            "any other weights",
            "Explain one that has learned from photos",
        )
    (tensor,) = model.inputs
    if "float" not in tensor.dtype:
        why = f"it takes pixels of {tensor.dtype}, which have no gradients"
        _refuse(model, why, 'Give it an `Input` of `dtype="float32"`')
