"""What the tasks for texts share: their backbone, their model."""

from finetune_keras.models.model import encoder_of
from finetune_keras.text.text_backbones import check_length, text_backbone


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
