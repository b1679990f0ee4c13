"""Contracts that every layer, callback and adapter passes, ours and yours."""

from finetune_keras.testing.test_case import TestCase
from finetune_keras.testing.weights import randomize, weights_snapshot

__all__ = ["TestCase", "randomize", "weights_snapshot"]
