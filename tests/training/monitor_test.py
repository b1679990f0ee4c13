import keras
import pytest

from finetune_keras.training.monitor import rises, weight_penalty

layers = keras.layers

RISING = """
accuracy Accuracy acc top5_acc mean_io_u MeanIoU iou AUC pr_auc auc_1 F1 F1Score
f1_score fbeta_score Recall recall_5 precision_at_recall R2Score r2_score mcc
sensitivity_at_specificity cosine_similarity dice kappa true_positives bleu
loss_accuracy macro_f1 explained_variance
""".split()
FALLING = """
loss accept_loss recall_head_loss head_loss mean_absolute_error mae MSE
indices_mae accel_error jaccard_distance edit_distance perplexity hinge
binary_crossentropy kl_divergence poisson log_cosh false_negatives brier_score
root_mean_squared_error
""".split()


@pytest.mark.parametrize("name", RISING)
def test_names_that_rise(name):
    assert rises(f"val_{name}") is rises(name) is True


@pytest.mark.parametrize("name", FALLING)
def test_names_that_fall(name):
    assert rises(f"val_{name}") is rises(name) is False


def compiled(metrics):
    inputs = keras.Input((3,))
    regularizer = keras.regularizers.L2(0.5)
    x = layers.Dense(2, kernel_regularizer=regularizer, name="low")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    model.compile("sgd", "mse", metrics=metrics)
    return model


def test_the_metric_itself_knows_best():
    model = compiled(
        [keras.metrics.MeanSquaredError(name="r2"), keras.metrics.AUC(name="x")]
    )
    assert rises("val_r2", model=model) is False
    assert rises("val_head_x", model=model) is True
    assert rises("val_r2") is True
    assert rises("val_x", "min", model) is False


def test_what_cannot_be_told():
    model = compiled([keras.metrics.Mean(name="thing")])
    with pytest.raises(ValueError, match="`mode=.*monitor='val_thing'"):
        rises("val_thing", model=model)
    assert rises("val_thing", "max", model) is True
    assert rises(None) is False
    with pytest.raises(ValueError, match="mode='most'"):
        rises("loss", "most")


@pytest.mark.backends
def test_the_penalty_is_that_of_what_trains():
    model = compiled([])
    low = model.get_layer("low")
    low.kernel.assign(keras.ops.full((3, 2), 2.0))
    assert weight_penalty("val_loss", model) == 0.5 * 6 * 4
    assert weight_penalty("val_accuracy", model) == 0.0
    low.trainable = False
    assert weight_penalty("val_loss", model) == 0.0
