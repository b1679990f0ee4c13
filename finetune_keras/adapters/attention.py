"""Attention to more keys and values than the tokens have."""

from keras import ops


def attend(
    compute, adapters, query, key, value, attention_mask=None, *args, **kwargs
):
    """Computes attention with what the adapters of its layer change.

    `compute` is the layer's own, of all that follows. Query, key and value are
    of shape `(batch, length, heads, features)`; the mask is true where a target
    may look.
    """
    prompts = [adapter for adapter in adapters if adapter.prompt_length]
    if prompts:
        attention_mask = _with_prompts(attention_mask, key, prompts)
    outputs, scores = compute(
        query, key, value, attention_mask, *args, **kwargs
    )

    def with_prefix(prefix_key, prefix_value):
        keys, values = _behind(prefix_key, key), _behind(prefix_value, value)
        mask = attention_mask
        if mask is not None:
            mask = ops.cast(mask, "bool")
            seen = ops.ones((prefix_key.shape[0],), "bool")
            mask = _join(seen, mask)
        return compute(query, keys, values, mask, *args, **kwargs)[0]

    changed = outputs
    for adapter in adapters:
        change = adapter(query, outputs, with_prefix=with_prefix)
        if change is not None:
            changed = changed + ops.cast(change, outputs.dtype)
    return changed, scores


def _behind(prefix, tokens):
    """Puts the same vectors in front of each sequence of a batch."""
    prefix = ops.cast(ops.convert_to_tensor(prefix), tokens.dtype)
    one = ops.zeros_like(tokens[:, :1])
    return ops.concatenate([prefix[None] + one, tokens], axis=1)


def _with_prompts(mask, key, prompts):
    """Opens a mask for the prompts that stand in front of the tokens.

    All look at the prompts that are on. A prompt looks at what the first
    token looks at: at no padding, and in a causal model at nothing later.
    """
    seen = ops.concatenate(
        # The last to come was put in front of those before.
        [ops.repeat(x.switch != 0, x.prompt_length) for x in prompts[::-1]]
    )
    tokens = ops.shape(key)[1] - seen.shape[0]
    if mask is None:
        mask = ops.ones_like(key[:, None, :, 0, 0], "bool")
    mask = ops.cast(mask, "bool")[..., -tokens:]
    if mask.shape[-2] != 1:
        first = ops.repeat(mask[..., :1, :], seen.shape[0], axis=-2)
        mask = ops.concatenate([first, mask[..., -tokens:, :]], axis=-2)
    return _join(seen, mask)


def _join(seen, mask):
    seen = ops.logical_and(seen, ops.ones_like(mask[..., :1]))
    return ops.concatenate([seen, mask], axis=-1)
