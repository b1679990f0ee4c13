"""Pretrained transformers for texts, with their tokeniser."""

import contextlib
import json
import os
import socket

import keras

from finetune_keras.engine.graph import all_layers
from finetune_keras.engine.network import call_within
from finetune_keras.engine.packages import keras_hub
from finetune_keras.models.model import encoder_of, text_model
from finetune_keras.models.readable import in_one_piece
from finetune_keras.models.text_encoder import TextEncoder

_ANSWER_SECONDS = 5
_HOSTS = {"hf://": "huggingface.co"}
_KAGGLE = "www.kaggle.com"


def text_backbone(
    preset, tokenizer=None, sequence_length=None, weights=True, **kwargs
):
    """Loads a transformer and its tokeniser.

    Args:
        preset: Name of a KerasHub preset, such as `"bert_small_en_uncased"`,
            `"roberta_base_en"` or `"deberta_v3_small_en"`; the path of a
            folder with a KerasHub preset or a Hugging Face model
            (`config.json`, `model.safetensors` and the vocabulary); or a
            `keras_hub.models.Backbone`, which then needs `tokenizer`.
        tokenizer: A `keras_hub.tokenizers.Tokenizer`. Defaults to `None`, that
            of the preset.
        sequence_length: Integer, the most tokens of one input; longer texts
            lose their end. Defaults to `None`: 128, or what the backbone
            reads where that is less.
        weights: Boolean, whether the pretrained weights are loaded. Defaults
            to `True`.
        **kwargs: Further arguments of the KerasHub backbone, such as `dtype`.

    Returns:
        A `FineTuneModel` that takes texts and gives the features of each
        token. Tasks built on it share its weights.

    Raises:
        ValueError: If there is no such preset, it cannot be downloaded, or
            the folder lacks a file.
        ImportError: If keras_hub is not installed.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=2, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    backbone = ft.text_backbone(
        bert, keras_hub.tokenizers.BertTokenizer(words), sequence_length=16
    )
    print([group.name for group in ft.layer_groups(backbone)])
    ```
    """
    if encoder_of(preset) is not None:
        return preset
    if isinstance(preset, keras.Model):
        backbone = getattr(preset, "backbone", None) or preset
        tokenizer = tokenizer or _tokenizer_of(preset)
    else:
        backbone, found = _load(preset, weights, kwargs)
        tokenizer = tokenizer or found
    if sequence_length is None:
        sequence_length = min(128, longest_text(backbone) or 128)
    check_length(backbone, sequence_length)
    whole = in_one_piece(backbone)
    encoder = TextEncoder(tokenizer, sequence_length)
    return text_model(whole.input, whole.output, encoder, backbone.name)


def base_of(backbone, sequence_length, tokenizer):
    """The backbone with an encoder, and the options of an encoder for it."""
    if encoder_of(backbone) is None:
        length = {"sequence_length": sequence_length} if sequence_length else {}
        backbone = text_backbone(backbone, tokenizer, **length)
    encoder = backbone.encoder
    check_length(backbone, sequence_length or encoder.sequence_length)
    return backbone, {
        "tokenizer": tokenizer or encoder.tokenizer,
        "sequence_length": sequence_length or encoder.sequence_length,
    }


def sequence_of(base):
    """The features of each token of a backbone."""
    output = base.output
    return output["sequence_output"] if isinstance(output, dict) else output


def longest_text(model):
    """How many tokens a model has positions for, or `None`."""
    found = []
    for layer in [model, *all_layers(model)]:
        for name in ("max_sequence_length", "max_position_embeddings"):
            found.append(getattr(layer, name, None))
        if "PositionEmbedding" in type(layer).__name__:
            found.append(getattr(layer, "sequence_length", None))
    return min((x for x in found if isinstance(x, int)), default=None)


def check_length(model, sequence_length):
    """Refuses a length of texts that a model has no positions for."""
    longest = longest_text(model)
    if longest and sequence_length > longest:
        raise ValueError(
            f"The backbone {model.name!r} reads at most {longest} tokens. "
            f"Received: sequence_length={sequence_length}"
        )


def _tokenizer_of(model):
    preprocessor = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(
            "A backbone that is built already needs its tokeniser: pass "
            "`tokenizer=keras_hub.tokenizers.Tokenizer.from_preset(...)` of "
            f"the same preset. Received: preset={model.name!r}, tokenizer=None"
        )
    return tokenizer


def _load(preset, weights, kwargs):
    preset = os.fspath(preset)
    folder = os.path.isdir(os.path.expanduser(preset))
    if folder:
        preset = os.path.expanduser(preset)
        _check_folder(preset)
    else:
        _check_name(preset)
    with _hurried(preset, folder):
        backbone = keras_hub.models.Backbone.from_preset(
            preset, load_weights=weights, **kwargs
        )
        tokenizer = keras_hub.models.Tokenizer.from_preset(preset)
        if folder:
            _strip_accents(tokenizer, preset)
        return backbone, tokenizer


def _strip_accents(tokenizer, folder):
    """Has BERT's tokeniser treat accents as Hugging Face does.

    There they go with the upper case, unless the folder says otherwise;
    KerasHub reads of it the case alone.
    """
    path = os.path.join(folder, "tokenizer_config.json")
    if not (hasattr(tokenizer, "strip_accents") and os.path.isfile(path)):
        return
    with open(path, encoding="utf-8") as file:
        told = json.load(file).get("strip_accents")
    tokenizer.strip_accents = tokenizer.lowercase if told is None else told


def _check_folder(folder):
    files = os.listdir(folder)
    if "config.json" not in files:
        raise ValueError(
            "The folder holds no model: it has no config.json. A KerasHub "
            "preset has config.json, model.weights.h5, tokenizer.json and "
            "assets; a Hugging Face model has config.json, model.safetensors "
            "and vocab.txt (or vocab.json, merges.txt, spm.model). "
            f"Received: preset={folder!r} with {sorted(files)[:10]}"
        )


def _check_name(preset):
    if "://" in preset:
        return
    known = {
        name
        for kind in vars(keras_hub.models).values()
        if isinstance(kind, type)
        and issubclass(kind, keras_hub.models.Backbone)
        for name in kind.presets
    }
    if preset not in known:
        import difflib

        near = difflib.get_close_matches(preset, known, n=5, cutoff=0.5)
        raise ValueError(
            "There is neither a folder nor a KerasHub preset of this name. "
            f"Nearest names: {near or sorted(known)[:5]}. "
            f"Received: preset={preset!r}, seen from {os.getcwd()}"
        )


@contextlib.contextmanager
def _hurried(preset, folder):
    """Says within seconds that there is no network, and what to put where."""
    if not folder and not _is_cached(preset) and not _answers(preset):
        raise ValueError(_no_download(preset, "its host does not answer"))
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        if folder:
            raise ValueError(
                "The model in the folder cannot be loaded: a file is missing, "
                "damaged, or of a kind that KerasHub does not read. "
                f"{reason} Received: preset={preset!r}"
            ) from error
        raise ValueError(_no_download(preset, reason)) from error


def _no_download(preset, reason):
    return (
        f"The preset {preset!r} is not on this machine and the download "
        f"failed: {reason}. Fetch it where there is a network "
        f"(`keras_hub.models.Backbone.from_preset({preset!r})."
        "save_to_preset(FOLDER)`, and the same with `Tokenizer`), copy the "
        "folder here and pass its path; a folder of Hugging Face with "
        "config.json, model.safetensors and the vocabulary will do as well. "
        f"Received: preset={preset!r}"
    )


def _is_cached(preset):
    """Tells whether the files of a preset may be on this machine already."""
    if preset.startswith("hf://"):
        root = os.environ.get("HF_HOME", "~/.cache/huggingface")
    else:
        root = os.environ.get("KAGGLEHUB_CACHE", "~/.cache/kagglehub")
    root = os.path.expanduser(root)
    stem = preset.removeprefix("hf://").removeprefix("kaggle://").split("/")
    names = {part.lower() for part in stem[-2:]}
    names |= {"models--" + "--".join(stem).lower()}
    return any(
        names & {name.lower() for name in folders}
        for _, folders, _ in os.walk(root)
    )


def _answers(preset):
    """Tells whether the host can be reached, within seconds."""
    host = next(
        (h for start, h in _HOSTS.items() if preset.startswith(start)), _KAGGLE
    )
    if os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY"):
        return True

    def ask():
        socket.create_connection((host, 443), _ANSWER_SECONDS).close()

    try:
        call_within(_ANSWER_SECONDS, ask)
    except OSError:
        return False
    return True
