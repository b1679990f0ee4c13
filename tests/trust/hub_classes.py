"""KerasHub's backbones, each built small, for `hub_backbones_test`."""

TEXT = {
    "vocabulary_size": 20,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
CAUSAL = {
    "vocabulary_size": 20,
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
VIT = {
    "image_shape": (16, 16, 3),
    "patch_size": (8, 8),
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
}
LONG = {"max_sequence_length": 16}
MOE = {"moe_intermediate_dim": 8, "num_experts": 2, "top_k": 1}
QWEN35 = {
    **CAUSAL,
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "num_layers": 2,
}
T5G = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "num_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "layer_types": ["full_attention"],
    }.items()
}
IMAGE = {"image_shape": (32, 32, 3)}
RESNET = {
    **IMAGE,
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 64],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
}

BACKBONES = {
    # === Texts ===
    "AlbertBackbone": {**TEXT, **LONG, "embedding_dim": 4},
    "BartBackbone": {**TEXT, **LONG},
    "BertBackbone": {**TEXT, **LONG},
    "BloomBackbone": TEXT,
    "DebertaV3Backbone": {**TEXT, **LONG, "bucket_size": 4},
    "DistilBertBackbone": {**TEXT, **LONG},
    "EdRecBackbone": {
        "vocab_size": 20,
        "num_layers_enc": 1,
        "num_layers_dec": 1,
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "num_heads": 2,
    },
    "ElectraBackbone": {
        **{k: v for k, v in TEXT.items() if k != "vocabulary_size"},
        **LONG,
        "vocab_size": 20,
        "embedding_dim": 8,
    },
    "ESMBackbone": TEXT,
    "FNetBackbone": {
        **{k: v for k, v in TEXT.items() if k != "num_heads"},
        **LONG,
    },
    "FalconBackbone": {
        **{k: v for k, v in TEXT.items() if k != "num_heads"},
        "num_attention_heads": 2,
    },
    "GemmaBackbone": {**CAUSAL, "head_dim": 4},
    "Gemma3Backbone": {**CAUSAL, "head_dim": 4, "image_size": 16},
    "Gemma4Backbone": {**CAUSAL, "head_dim": 4, "image_size": 16},
    "GPT2Backbone": {**TEXT, **LONG},
    "GPTNeoXBackbone": {**TEXT, **LONG, "rotary_percentage": 0.5},
    "GptOssBackbone": {**CAUSAL, "num_experts": 2, "top_k": 1},
    "LlamaBackbone": CAUSAL,
    "Llama3Backbone": CAUSAL,
    "MistralBackbone": CAUSAL,
    "MixtralBackbone": {**CAUSAL, "num_experts": 2, "top_k": 1},
    "OPTBackbone": {**TEXT, **LONG},
    "Phi3Backbone": CAUSAL,
    "QwenBackbone": CAUSAL,
    "Qwen3Backbone": {**CAUSAL, "head_dim": 4},
    "Qwen3_5Backbone": QWEN35,
    "Qwen3_5MoeBackbone": {
        **{k: v for k, v in QWEN35.items() if k != "intermediate_dim"},
        **MOE,
        "shared_expert_intermediate_size": 8,
    },
    "Qwen3MoeBackbone": {**CAUSAL, **MOE, "head_dim": 4},
    "QwenMoeBackbone": {
        **CAUSAL,
        **MOE,
        "shared_expert_intermediate_dim": 8,
    },
    "RobertaBackbone": {**TEXT, **LONG},
    "RoformerV2Backbone": {**TEXT, "head_size": 4},
    "RWKV7Backbone": {
        "vocabulary_size": 20,
        "num_layers": 1,
        "hidden_size": 8,
        "head_size": 4,
        "intermediate_dim": 16,
        "gate_lora": 4,
        "mv_lora": 4,
        "aaa_lora": 4,
        "decay_lora": 4,
    },
    "SmolLM3Backbone": {
        "vocabulary_size": 20,
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "num_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_layer_enabled_list": [True],
        "layer_types": ["full_attention"],
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 16,
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
    },
    "T5Backbone": TEXT,
    "T5GemmaBackbone": {**T5G, "vocabulary_size": 20},
    "T5Gemma2Backbone": {**T5G, "vocabulary_size": 20},
    "XLMRobertaBackbone": {**TEXT, **LONG},
    "XLNetBackbone": TEXT,
    # === Images ===
    "CSPNetBackbone": {
        **IMAGE,
        "stem_filters": 4,
        "stem_kernel_size": 3,
        "stem_strides": 2,
        "stackwise_depth": [1, 1],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [8, 8],
        "block_type": "dark_block",
        "stage_type": "dark",
    },
    "DeiTBackbone": {**VIT, "intermediate_dim": 16},
    "DenseNetBackbone": {
        **IMAGE,
        "stackwise_num_repeats": [1, 1],
        "growth_rate": 4,
    },
    "DINOV2Backbone": {
        "patch_size": 8,
        "num_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "intermediate_dim": 16,
        "image_shape": (16, 16, 3),
        "position_embedding_shape": (16, 16, 3),
    },
    "DINOV3Backbone": {
        "patch_size": 8,
        "num_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "intermediate_dim": 16,
        "image_shape": (16, 16, 3),
    },
    "EfficientNetBackbone": {
        "stackwise_width_coefficients": [1.0],
        "stackwise_depth_coefficients": [1.0],
        "stackwise_kernel_sizes": [3],
        "stackwise_num_repeats": [1],
        "stackwise_input_filters": [8],
        "stackwise_output_filters": [8],
        "stackwise_expansion_ratios": [2],
        "stackwise_strides": [2],
        "stackwise_squeeze_and_excite_ratios": [0.25],
        "stackwise_block_types": ["v1"],
        "input_shape": (32, 32, 3),
        "num_features": 8,
    },
    "HGNetV2Backbone": {
        **IMAGE,
        "depths": [1, 1],
        "embedding_size": 8,
        "hidden_sizes": [8, 8],
        "stem_channels": [3, 4, 8],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": [[8, 4, 8, 1, 1, 3], [8, 4, 8, 1, 1, 3]],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, True],
    },
    "MiTBackbone": {
        "layerwise_depths": [1, 1],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "image_shape": (32, 32, 3),
        "hidden_dims": [4, 8],
    },
    "MobileNetBackbone": {
        **IMAGE,
        "stackwise_expansion": [[8], [8]],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_filters": [[8], [8]],
        "stackwise_kernel_size": [[3], [3]],
        "stackwise_num_strides": [[2], [1]],
        "stackwise_se_ratio": [[None], [0.25]],
        "stackwise_activation": [["relu"], ["hard_swish"]],
        "stackwise_padding": [[1], [1]],
        "output_num_filters": 8,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 8,
        "input_num_filters": 8,
    },
    "ResNetBackbone": RESNET,
    "SwinTransformerBackbone": {
        "image_shape": (32, 32, 3),
        "embed_dim": 8,
        "depths": [2, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "VGGBackbone": {
        **IMAGE,
        "stackwise_num_repeats": [1],
        "stackwise_num_filters": [8],
    },
    "ViTBackbone": {**VIT, "mlp_dim": 16},
    "ViTDetBackbone": {
        **IMAGE,
        "hidden_size": 8,
        "num_layers": 1,
        "intermediate_dim": 16,
        "num_heads": 2,
        "global_attention_layer_indices": [0],
        "num_output_channels": 8,
        "window_size": 2,
    },
    "XceptionBackbone": {
        **IMAGE,
        "stackwise_conv_filters": [[4, 8], [8, 8]],
        "stackwise_pooling": [True, False],
    },
    # === Others ===
    "WhisperBackbone": {
        **TEXT,
        "num_mels": 4,
        "max_encoder_sequence_length": 16,
        "max_decoder_sequence_length": 16,
    },
    "VideoPrismBackbone": {
        "num_frames": 2,
        "patch_size": 8,
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "num_heads": 2,
        "num_spatial_layers": 1,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 0,
        "image_shape": (16, 16, 3),
    },
}

# Made of another one.
AROUND = {
    "DeepLabV3Backbone": {
        "image_encoder": "ResNetBackbone",
        "spatial_pyramid_pooling_key": "P3",
        "low_level_feature_key": "P2",
        "upsampling_size": 2,
        "dilation_rates": [2],
        "projection_filters": 4,
    },
    "RetinaNetBackbone": {
        "image_encoder": "ResNetBackbone",
        "min_level": 2,
        "max_level": 3,
        "use_p5": False,
    },
    "SegFormerBackbone": {
        "image_encoder": "MiTBackbone",
        "projection_filters": 4,
    },
}

# Their last layers look like a head, and cannot be read one by one.
REFUSED = {
    "DeepLabV3Backbone": "an inner model that must stay whole",
    "RWKV7Backbone": "an inner model that must stay whole",
}


def build(hub, name):
    """Builds one of the table, with the numbers above."""
    arguments = dict(BACKBONES.get(name) or AROUND[name])
    if "image_encoder" in arguments:
        arguments["image_encoder"] = build(hub, arguments["image_encoder"])
    return getattr(hub.models, name)(**arguments)
