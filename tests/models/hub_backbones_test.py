import keras
import pytest

import finetune_keras as ft

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
TEXT = {
    "vocabulary_size": 50,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 12,
}
BLOCKS = [f"transformer_layer_{i}" for i in range(3)]


def groups_of(model):
    groups = ft.layer_groups(model)
    grouped = [v.path for g in groups for v in g.variables]
    assert sorted(grouped) == sorted({v.path for v in model.weights})
    return {group.name: group for group in groups}


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert"])
def test_text_backbones(name):
    backbone = getattr(hub.models, f"{name}Backbone")(**TEXT)
    groups = groups_of(backbone)
    assert list(groups)[:4] == ["embeddings", *BLOCKS]
    assert all(groups[block].cut is not None for block in BLOCKS)
    assert "head" not in groups


def test_bert_task_has_a_head():
    backbone = hub.models.BertBackbone(**TEXT)
    task = hub.models.BertTextClassifier(backbone=backbone, num_classes=2)
    groups = groups_of(task)
    assert [x.name for x in groups["head"].layers] == ["logits"]
    model = ft.replace_head(task, 5)
    assert model.output_shape == (None, 5)
    assert {id(v) for v in backbone.weights} < {id(v) for v in model.weights}


def test_image_backbones():
    resnet = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )
    assert list(groups_of(resnet)) == [
        "stem",
        "stack0_block0",
        "stack0_block1",
        "stack1_block0",
        "stack1_block1",
    ]
    vit = hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=(8, 8),
        num_layers=3,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
    )
    blocks = [f"transformer_block_{i}" for i in (1, 2, 3)]
    assert list(groups_of(vit)) == ["embeddings", *blocks]


def test_frozen_blocks_of_bert_survive_the_file(tmp_path):
    backbone = hub.models.BertBackbone(**TEXT)
    model = ft.replace_head(backbone, 3, pooling="token")
    ft.freeze(model)
    ft.unfreeze(model, ["transformer_layer_2", "head"])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    trained = {v.path for v in model.trainable_variables}
    assert 2 < len(trained) < len(model.weights)
    assert {v.path for v in loaded.trainable_variables} == trained
