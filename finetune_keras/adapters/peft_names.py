"""How Hugging Face calls the layers that KerasHub's models have too."""

import re
import typing

from finetune_keras.adapters.targets import base_leaves
from finetune_keras.models.adapters_by_path import bases


class Family(typing.NamedTuple):
    """A family of models on both sides.

    `start` and `blocks` are what stands before the number of a block there,
    `block` is the name of a block here, `modules` a dict from what follows it
    here to what follows the number there. `fused` are layers here that are one
    there, in the order of its columns.
    """

    name: str
    start: str
    blocks: str
    block: str
    modules: dict
    fused: tuple = ()

    @property
    def writes_text(self):
        return self.name in ("llama", "gpt2", "gemma")

    def place(self, path):
        """`(number, rest)` of a path, or `None` where it has no place."""
        match = re.fullmatch(rf"(?:.*/)?{self.block}_(\d+)/(.*)", path)
        known = match and match[2] in self.modules
        return (match[1], match[2]) if known else None

    def module(self, path):
        """The name on the other side, without `start`, of a layer."""
        place = self.place(path)
        if place is None:
            raise ValueError(
                f"The layer {path!r} has no place in PEFT's file. Those of the "
                f"blocks have: {list(self.modules)}. Leave `format` out, or "
                "choose other `target_layers`."
            )
        return f"{self.blocks}.{place[0]}.{self.modules[place[1]]}"

    def parts(self, path):
        """How many layers here one there is, and which of them this is."""
        rest = self.place(path)[1]
        if rest not in self.fused:
            return 1, 0
        return len(self.fused), self.fused.index(rest)


def _family(name, start, blocks, block, here, there, fused=()):
    return Family(
        name, start, blocks, block, dict(zip(here, there, strict=True)), fused
    )


_ENCODER = (
    "self_attention_layer/query",
    "self_attention_layer/key",
    "self_attention_layer/value",
    "self_attention_layer/attention_output",
    "feedforward_intermediate_dense",
    "feedforward_output_dense",
)
_BERT = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_DISTIL_BERT = (
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
)
_LLAMA = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_PROJECTIONS = ("query", "key", "value", "attention_output")
_DECODER = tuple(f"self_attention/{x}" for x in _PROJECTIONS)
_FFN = ("intermediate_dense", "output_dense")
_GATED = ("gate_dense", *_FFN)
_BLOCK = "transformer_layer"
_LAYERS = "encoder.layer"
BERT = _family("bert", "bert", _LAYERS, _BLOCK, _ENCODER, _BERT)
ROBERTA = _family("roberta", "roberta", _LAYERS, _BLOCK, _ENCODER, _BERT)
DISTIL_BERT = _family(
    "distilbert",
    "distilbert",
    "transformer.layer",
    _BLOCK,
    _ENCODER,
    _DISTIL_BERT,
)
LLAMA = _family(
    "llama",
    "model",
    "layers",
    _BLOCK,
    (*_DECODER, *(f"feedforward_{x}" for x in _GATED)),
    _LLAMA,
)
GEMMA = _family(
    "gemma",
    "model",
    "layers",
    "decoder_block",
    (
        *(f"attention/{x}" for x in _PROJECTIONS),
        *("ffw_gating", "ffw_gating_2", "ffw_linear"),
    ),
    _LLAMA,
)
GPT2 = _family(
    "gpt2",
    "transformer",
    "h",
    _BLOCK,
    (*_DECODER, *(f"feedforward_{x}" for x in _FFN)),
    (*["attn.c_attn"] * 3, "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    _DECODER[:3],
)
# Blocks that only some families have.
_OF_BLOCKS = {
    "LlamaTransformerDecoder": LLAMA,
    "MistralTransformerDecoder": LLAMA,
    "QwenTransformerDecoder": LLAMA,
    "GemmaDecoderBlock": GEMMA,
}


def family_of(model):
    """Tells the family of a model by its blocks and embeddings."""
    layers = bases(model)
    names = {layer.name for layer in layers}
    for layer in layers:
        if type(layer).__name__ in _OF_BLOCKS:
            return _OF_BLOCKS[type(layer).__name__]
    paths = base_leaves(model).values()
    # ELECTRA has the layers of BERT, and other names on the other side.
    if any(map(BERT.place, paths)) and "electra" not in model.name:
        if "segment_embedding" in names:
            return BERT
        if "token_and_position_embedding" in names:
            return DISTIL_BERT
        if "embeddings" in names:
            return ROBERTA
    # OPT has the blocks of GPT-2, and other embeddings.
    if any(map(GPT2.place, paths)) and "position_embedding" in names:
        return GPT2
    raise ValueError(
        "Files of PEFT can be read and written for models on KerasHub's "
        "`BertBackbone`, `RobertaBackbone`, `DistilBertBackbone`, "
        "`LlamaBackbone` (Llama 3, Mistral and Qwen too), `GemmaBackbone` and "
        f"`GPT2Backbone`. Received: model={model.name!r} of type "
        f"{type(model).__name__}"
    )
