"""A quantised base: what gradients pass through."""

from finetune_keras.engine import graph


def check_gradients(model):
    """Raises where Keras passes wrong gradients through a quantised layer.

    A reversible embedding in int8 that makes scores of tokens rounds what it
    reads, and has no gradient of its own for that.
    """
    if graph.graph_of(model) is None:
        return
    for step in graph.walk(model)[0]:
        layer = step.operation
        rounds = getattr(layer, "inputs_quantizer", None) is not None
        rounds = rounds and getattr(layer, "quantization_mode", None) == "int8"
        if rounds and hasattr(layer, "tie_weights") and True in step.arguments:
            raise ValueError(
                f"The layer {step.path!r} is in int8 and rounds what it reads, "
                "and Keras passes wrong gradients through that: what stands "
                "before it would train in a wrong direction. Quantise the "
                "weights alone: `model.quantize(config=keras.quantizers."
                "Int8QuantizationConfig(activation_quantizer=None))`, or in "
                f'"int4". Received: model={model.name!r}'
            )
