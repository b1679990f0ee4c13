"""Encoders of texts in the files of SentenceTransformers."""

import json
import os
import pathlib
import re

import keras
import numpy as np

from finetune_keras.data.facts import reading
from finetune_keras.data.task import Task
from finetune_keras.engine.packages import require, safetensors
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.models.model import encoder_of

_KIND = "sentence_transformers.models."
_POOLINGS = {"avg": "mean", "max": "max", "token": "cls"}
# Of files before version 5.
_FLAGS = {"mean": "mean_tokens", "max": "max_tokens", "cls": "cls_token"}
_WORDS = "embeddings.word_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_SEGMENTS = "embeddings.token_type_embeddings.weight"
# Where a weight of KerasHub's BERT stands in that of Hugging Face.
_OUTSIDE = {
    "token_embedding/embeddings": _WORDS,
    "position_embedding/embeddings": _POSITIONS,
    "segment_embedding/embeddings": _SEGMENTS,
    "embeddings_layer_norm/gamma": "embeddings.LayerNorm.weight",
    "embeddings_layer_norm/beta": "embeddings.LayerNorm.bias",
}
_MODULES = {
    "self_attention_layer/query": "attention.self.query",
    "self_attention_layer/key": "attention.self.key",
    "self_attention_layer/value": "attention.self.value",
    "self_attention_layer/attention_output": "attention.output.dense",
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
    "feedforward_layer_norm": "output.LayerNorm",
}
_BLOCK = re.compile(r"transformer_layer_(\d+)/(.*)/(\w+)")


def save_sentence_transformer(model, folder):
    """Writes an encoder of texts as SentenceTransformers reads it.

    `SentenceTransformer(folder)` gives the same vectors, and so does
    `text_embedder(folder)`. The folder has the weights as safetensors, the
    vocabulary, and how tokens are pooled.

    Args:
        model: A model from `text_embedder` on a `BertBackbone`, as MiniLM,
            BGE, E5 and GTE have it, without adapters.
        folder: String, path of a folder that is made, or of one in which old
            files of the same names are replaced.

    Returns:
        String, the path.

    Raises:
        ValueError: If the model is another.

    Example:

    ```python
    import os
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "ann", "ran"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    encoder = ft.text_embedder(
        bert, sequence_length=16,
        tokenizer=keras_hub.tokenizers.BertTokenizer(words),
    )
    ft.save_sentence_transformer(encoder, "encoder")
    print(sorted(os.listdir("encoder")))
    again = ft.text_embedder("encoder")
    ```
    """
    require(safetensors)
    _check_model(model)
    weights = _tensors(model)
    pooling, normalize = _ending(model)
    names = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": _KIND + name}
        for i, (name, path) in enumerate(zip(names, paths, strict=False))
    ]
    length = model.encoder.sequence_length
    told = {"max_seq_length": length, "do_lower_case": False}
    folder = pathlib.Path(folder).expanduser()
    for path in paths[: len(names)]:
        (folder / path).mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", _config(model, weights))
    _write(folder / "sentence_bert_config.json", told)
    _write(folder / "1_Pooling" / "config.json", _pooling(model, pooling))
    _write_tokenizer(model.encoder.tokenizer, folder, length)
    data = safetensors.numpy.save(weights, {"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)
    # The last, as it is what makes the folder one.
    _write(folder / "modules.json", modules)
    return str(folder)


def is_sentence_folder(path):
    """Tells whether a path is a folder that SentenceTransformers reads."""
    if not isinstance(path, (str, os.PathLike)):
        return False
    return (pathlib.Path(path).expanduser() / "modules.json").is_file()


def read_modules(folder):
    """Dict of the options of `text_embedder` that a folder tells."""
    folder = pathlib.Path(folder).expanduser()
    modules = _read(folder / "modules.json")
    with reading(folder / "modules.json"):
        kinds = [one["type"].rpartition(".")[2] for one in modules]
        paths = {k: one["path"] for k, one in zip(kinds, modules, strict=True)}
    expected = ["Transformer", "Pooling", "Normalize"]
    if kinds not in (expected, expected[:2]):
        raise ValueError(
            f"An embedder is made of {expected}, the last of which may lack. "
            f"Received: a folder {str(folder)!r} with {kinds}"
        )
    told = folder / "sentence_bert_config.json"
    told = _read(told) if told.is_file() else {}
    return {
        "pooling": _pooling_of(folder / paths["Pooling"] / "config.json"),
        "normalize": "Normalize" in kinds,
        "sequence_length": told.get("max_seq_length"),
    }


def _pooling_of(file):
    config = _read(file)
    known = {f"pooling_mode_{flag}": name for name, flag in _FLAGS.items()}
    start = "pooling_mode_"
    found = [known.get(k) for k in config if k.startswith(start) and config[k]]
    if "pooling_mode" in config:
        found = [config["pooling_mode"]]
    names = {name: ours for ours, name in _POOLINGS.items()}
    if len(found) != 1 or found[0] not in names:
        raise ValueError(
            f"An embedder pools by one of {list(names)}. Received: {config} "
            f"in {str(file)!r}"
        )
    return names[found[0]]


# === What is written ===


def _check_model(model):
    task = Task.kept_with(model)
    if encoder_of(model) is None or not (task and task.is_compared):
        raise ValueError(
            "SentenceTransformers reads encoders of texts: pass a model from "
            f"`ft.text_embedder`. Received: model={model!r}"
        )
    if adapters_by_name(model):
        raise ValueError(
            "The files have no place for adapters: fold them into the weights "
            "by `ft.merge_adapters(model)` first. "
            f"Received: model={model.name!r} with adapters"
        )
    if not hasattr(model.encoder.tokenizer, "strip_accents"):
        _refuse(model, f"a {type(model.encoder.tokenizer).__name__}")


def _refuse(model, found):
    raise ValueError(
        "Files of SentenceTransformers are written for encoders on KerasHub's "
        "`BertBackbone`, with its tokeniser of word pieces. "
        f"Received: model={model.name!r} with {found}"
    )


def _ending(model):
    """How a model from `text_embedder` pools, and whether it normalises."""
    kinds = [type(layer).__name__ for layer in model.layers]
    pooled = {"GlobalAveragePooling1D": "avg", "GlobalMaxPooling1D": "max"}
    found = [pooled[kind] for kind in kinds if kind in pooled] or ["token"]
    return found[0], "UnitNormalization" in kinds


def _tensors(model):
    """Dict from names in Hugging Face's BERT to arrays."""
    found = {}
    for variable in model.weights:
        array = keras.ops.convert_to_numpy(variable).astype("float32")
        name = _OUTSIDE.get(variable.path)
        match = _BLOCK.fullmatch(variable.path)
        if match and match[2] in _MODULES:
            kind = "bias" if match[3] in ("bias", "beta") else "weight"
            name = f"encoder.layer.{match[1]}.{_MODULES[match[2]]}.{kind}"
            is_matrix = match[3] == "kernel"
            array = _matrix(array, match[2]) if is_matrix else array.ravel()
        if name is None:
            _refuse(model, f"a weight {variable.path!r}")
        found[name] = np.ascontiguousarray(array)
    # Readers of BERT want a pooler, which no embedder asks.
    width = model.output_shape[-1]
    found["pooler.dense.weight"] = np.eye(width, dtype="float32")
    found["pooler.dense.bias"] = np.zeros(width, "float32")
    return found


def _matrix(kernel, where):
    """The kernel of a layer as a matrix from its outputs to its inputs."""
    of_output = where.endswith("attention_output")
    shape = (-1, kernel.shape[-1]) if of_output else (kernel.shape[0], -1)
    return kernel.reshape(shape).T


def _config(model, weights):
    blocks = {n.split(".")[2] for n in weights if n.startswith("encoder.")}
    words, width = weights[_WORDS].shape
    query = "transformer_layer_0/self_attention_layer/query/kernel"
    heads = next(v.shape[1] for v in model.weights if v.path == query)
    inner = weights["encoder.layer.0.intermediate.dense.weight"].shape[0]
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": len(weights[_POSITIONS]),
        "type_vocab_size": len(weights[_SEGMENTS]),
        # That of KerasHub, which BERT itself computes by the error function.
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": model.encoder.tokenizer.pad_token_id,
        "torch_dtype": "float32",
    }


def _pooling(model, pooling):
    name = _POOLINGS[pooling]
    flags = {f"pooling_mode_{f}": k == name for k, f in _FLAGS.items()}
    return {"word_embedding_dimension": model.output_shape[-1], **flags}


def _write_tokenizer(tokenizer, folder, length):
    size = tokenizer.vocabulary_size()
    words = [tokenizer.id_to_token(i) for i in range(size)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    told = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": True,
        "model_max_length": length,
        "unk_token": tokenizer.oov_token,
        "cls_token": tokenizer.cls_token,
        "sep_token": tokenizer.sep_token,
        "pad_token": tokenizer.pad_token,
        "mask_token": tokenizer.mask_token,
    }
    _write(folder / "tokenizer_config.json", told)


def _write(path, facts):
    path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def _read(path):
    with reading(path):
        return json.loads(path.read_text("utf-8"))
