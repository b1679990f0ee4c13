"""Composable building blocks for fine-tuning pretrained Keras models."""

import importlib

from finetune_keras import plans
from finetune_keras.adapters.adapter import (
    add_adapters,
    disable_adapters,
    remove_adapters,
    set_adapter,
)
from finetune_keras.adapters.bottleneck import Bottleneck
from finetune_keras.adapters.files import load_adapters, save_adapters
from finetune_keras.adapters.join import join_adapters
from finetune_keras.adapters.lora import LoRA, lora_plus_multipliers
from finetune_keras.adapters.merge import merge_adapters
from finetune_keras.adapters.prefix import PrefixTuning
from finetune_keras.adapters.prompts import PromptTuning, PTuning
from finetune_keras.adapters.scales_and_biases import IA3, BitFit, NormTuning
from finetune_keras.adapters.token_tuning import TokenTuning
from finetune_keras.adapters.vera import VeRA
from finetune_keras.data.arrays import from_arrays
from finetune_keras.data.audio_folders import audio_folder
from finetune_keras.data.augmentation import Augmentation
from finetune_keras.data.augmentation_figure import show_augmentation
from finetune_keras.data.box_folders import box_folder
from finetune_keras.data.contrastive import ContrastiveLoss
from finetune_keras.data.csv_files import from_csv
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.folders import image_folder, text_folder
from finetune_keras.data.frames import from_frame
from finetune_keras.data.image_augmentation import image_augmentation
from finetune_keras.data.mask_folders import mask_folder
from finetune_keras.data.mixing import mix_examples
from finetune_keras.data.pairs import Pairs, pairs
from finetune_keras.data.sequence_augmentation import sequence_augmentation
from finetune_keras.data.series import from_series
from finetune_keras.data.table_augmentation import table_augmentation
from finetune_keras.data.tfds import from_tfds
from finetune_keras.engine.layerwise import layerwise_class
from finetune_keras.engine.retrace import retrace
from finetune_keras.models.audio import audio_classifier
from finetune_keras.models.backbones import backbone
from finetune_keras.models.freezing import freeze, unfreeze
from finetune_keras.models.heads import remove_head, replace_head
from finetune_keras.models.hub import HubLayer
from finetune_keras.models.inline import inline_models
from finetune_keras.models.layer_groups import (
    LayerGroup,
    LayerGroups,
    layer_groups,
    select_layers,
)
from finetune_keras.models.model import FineTuneModel
from finetune_keras.models.summary import TrainableSummary, trainable_summary
from finetune_keras.models.tasks import image_classifier, image_embedder
from finetune_keras.models.vocabulary import grow_vocabulary
from finetune_keras.plans.phase import Phase
from finetune_keras.plans.plan import Plan
from finetune_keras.plans.schedules import OneCycle, SlantedTriangular
from finetune_keras.results.bundle import Bundle, load_bundle, save_bundle
from finetune_keras.results.calibration import Calibration, calibrate
from finetune_keras.results.comparison import Comparison, compare
from finetune_keras.results.cross_validation import (
    CrossValidation,
    cross_validate,
)
from finetune_keras.results.ensembles import ensemble
from finetune_keras.results.evaluation import evaluate
from finetune_keras.results.explanation import Explanation, explain
from finetune_keras.results.label_errors import (
    LabelErrors,
    find_label_errors,
)
from finetune_keras.results.predictions import Predictions
from finetune_keras.results.pseudo_labels import pseudo_labels
from finetune_keras.results.record import save_record
from finetune_keras.results.report import Report
from finetune_keras.results.soups import average_weights
from finetune_keras.results.views import test_time_augmentation
from finetune_keras.search.advice import Advice, advise
from finetune_keras.search.best_model import BestModel, best_model
from finetune_keras.search.distribution import distribution
from finetune_keras.search.inspection import Inspection, inspect
from finetune_keras.search.parts import model_options
from finetune_keras.search.ranking import BackboneRanking, rank_backbones
from finetune_keras.search.result import Search
from finetune_keras.search.space import SearchSpace, search_space
from finetune_keras.text.prompts import prompts
from finetune_keras.text.sentence_files import save_sentence_transformer
from finetune_keras.text.text_augmentation import text_augmentation
from finetune_keras.text.text_backbones import text_backbone
from finetune_keras.text.text_embedder import text_embedder
from finetune_keras.text.text_files import read_conll, read_squad
from finetune_keras.text.text_metrics import answer_scores, entity_scores
from finetune_keras.text.text_tasks import (
    multiple_choice,
    text_classifier,
    text_regressor,
)
from finetune_keras.text.token_tasks import (
    masked_language_model,
    question_answerer,
    token_classifier,
)
from finetune_keras.training.audit import Audit
from finetune_keras.training.callbacks import (
    GradualUnfreeze,
    UnfreezeCallback,
    UnfreezeOnPlateau,
)
from finetune_keras.training.distillation import distill
from finetune_keras.training.dry_run import dry_run
from finetune_keras.training.fine_tune import fine_tune
from finetune_keras.training.history import FineTuneHistory
from finetune_keras.training.learning_rate import find_learning_rate
from finetune_keras.training.learning_rate_sweep import LearningRateSweep
from finetune_keras.training.optimizers import layerwise_optimizer
from finetune_keras.training.preferences import preference_model, preferences

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Audit",
    "Augmentation",
    "BackboneRanking",
    "BestModel",
    "BitFit",
    "Bottleneck",
    "Bundle",
    "Calibration",
    "Comparison",
    "ContrastiveLoss",
    "CrossValidation",
    "DataSplits",
    "Explanation",
    "FineTuneHistory",
    "FineTuneHyperModel",
    "FineTuneModel",
    "GradualUnfreeze",
    "HubLayer",
    "IA3",
    "Inspection",
    "LabelErrors",
    "LayerGroup",
    "LayerGroups",
    "LearningRateSweep",
    "LoRA",
    "NormTuning",
    "OneCycle",
    "PTuning",
    "Pairs",
    "Phase",
    "Plan",
    "Predictions",
    "PrefixTuning",
    "PromptTuning",
    "Report",
    "Search",
    "SearchSpace",
    "SlantedTriangular",
    "TokenTuning",
    "TrainableSummary",
    "UnfreezeCallback",
    "UnfreezeOnPlateau",
    "VeRA",
    "add_adapters",
    "advise",
    "answer_scores",
    "audio_classifier",
    "audio_folder",
    "average_weights",
    "backbone",
    "best_model",
    "box_folder",
    "calibrate",
    "compare",
    "cross_validate",
    "disable_adapters",
    "distill",
    "distribution",
    "dry_run",
    "ensemble",
    "entity_scores",
    "evaluate",
    "explain",
    "find_label_errors",
    "find_learning_rate",
    "fine_tune",
    "inline_models",
    "freeze",
    "from_arrays",
    "from_csv",
    "from_frame",
    "from_series",
    "from_tfds",
    "grow_vocabulary",
    "image_augmentation",
    "image_classifier",
    "image_embedder",
    "image_folder",
    "inspect",
    "join_adapters",
    "layer_groups",
    "layerwise_class",
    "layerwise_optimizer",
    "load_adapters",
    "load_bundle",
    "lora_plus_multipliers",
    "mask_folder",
    "masked_language_model",
    "merge_adapters",
    "mix_examples",
    "model_options",
    "multiple_choice",
    "pairs",
    "plans",
    "preference_model",
    "preferences",
    "prompts",
    "pseudo_labels",
    "question_answerer",
    "rank_backbones",
    "read_conll",
    "read_squad",
    "remove_adapters",
    "remove_head",
    "replace_head",
    "retrace",
    "save_adapters",
    "save_bundle",
    "save_record",
    "save_sentence_transformer",
    "search_space",
    "select_layers",
    "sequence_augmentation",
    "set_adapter",
    "show_augmentation",
    "table_augmentation",
    "test_time_augmentation",
    "text_augmentation",
    "text_backbone",
    "text_classifier",
    "text_embedder",
    "text_folder",
    "text_regressor",
    "token_classifier",
    "trainable_summary",
    "tune",
    "unfreeze",
]

# These import keras_tuner, and with it TensorFlow's whole trail.
_LAZY = {
    "FineTuneHyperModel": "finetune_keras.search.hypermodel",
    "tune": "finetune_keras.search.tune",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
