import pytest

from finetune_keras.plans.phase import Phase
from finetune_keras.plans.plan import Plan


def example():
    return Plan(
        [
            Phase("head", epochs=5, learning_rate=1e-3),
            Phase(2, epochs=10, learning_rate=1e-4, patience=2),
            Phase(
                ["block1", r"block[23]_.*", "head"],
                epochs=20,
                learning_rate=3e-5 * 1.1,
                patience=3,
                layerwise_lr_decay=0.8,
                batch_norm="train",
                schedule="cosine",
            ),
        ],
        head_initializer="ridge",
    )


@pytest.mark.parametrize("name", ["plan.yaml", "plan.yml"])
def test_files_round_trip(tmp_path, name):
    example().save(tmp_path / name)
    assert Plan.load(str(tmp_path / name)) == example()
    text = (tmp_path / name).read_text()
    assert text == example().to_yaml()
    assert text.startswith("head_initializer: ridge\nphases:\n- layers: head\n")


@pytest.mark.parametrize(
    "rate", [1e-3, 3e-5, 1 / 3, 5e-324, 1.7976931348623157e308, 1e22, 2]
)
def test_rates_survive_yaml_to_the_bit(rate):
    plan = Plan([Phase("all", learning_rate=rate, layerwise_lr_decay=1 / 3)])
    loaded = Plan.from_yaml(plan.to_yaml())
    assert loaded[0].learning_rate.hex() == float(rate).hex()
    assert loaded[0].layerwise_lr_decay.hex() == (1 / 3).hex()


@pytest.mark.parametrize(
    "name",
    [
        "null",
        "yes",
        "12",
        "1e3",
        "1.5",
        "a: b",
        "- a",
        "#a",
        "{a}",
        "'",
        "é",
        " a",
    ]
    + [r".*/(query|value)\d+", "x" * 200 + " " + "y" * 200, "2020-01-01", "<<"],
)
def test_any_name_survives_yaml(name):
    plan = Plan([Phase(name), Phase([name, "head"])])
    assert Plan.from_yaml(plan.to_yaml()) == plan


def test_what_a_person_writes():
    plan = Plan.from_yaml(
        """
        # Rates as a person writes them, and an anchor.
        head_initializer: ridge
        phases:
        - layers: head
          learning_rate: 1e-3
          weight_decay: 1e-4
          multipliers: {head: 1e1}
        - &two
          layers: 2
          epochs: 10
          learning_rate: 3E-4
          layerwise_lr_decay: "0.8"
        - <<: *two
          layers: [block1, head]
          learning_rate: null
        """
    )
    assert plan == Plan(
        [
            Phase(
                "head",
                learning_rate=1e-3,
                weight_decay=1e-4,
                multipliers={"head": 10.0},
            ),
            Phase(2, 10, 3e-4, layerwise_lr_decay=0.8),
            Phase(["block1", "head"], 10, layerwise_lr_decay=0.8),
        ],
        head_initializer="ridge",
    )


HEAD = "head_initializer"
GOOD = "phases:\n- layers: head\n"


@pytest.mark.parametrize(
    "text, line, key, message",
    [
        ("", 1, None, "key 'phases' is missing"),
        ("# nothing\n", 1, None, "key 'phases' is missing"),
        ("head_initializer: ridge\n", 1, None, "key 'phases' is missing"),
        ("\n- layers: head\n", 2, None, "Expected a dict"),
        ("head\n", 1, None, "Expected a dict"),
        ("\nphases: head\n", 2, "phases", "must be a list"),
        ("phases:\n", 1, "phases", "must be a list"),
        ("phases:\n  layers: head\n", 1, "phases", "must be a list"),
        ("phase:\n- layers: head\n", 1, "phase", "Did you mean 'phases'?"),
        (GOOD + f"{HEAD}: ridg\n", 3, HEAD, "mean 'ridge'?"),
        (GOOD + "1: 2\n", 3, "1", "The key 1 is unknown"),
        (GOOD + "- head\n", 3, None, "phase 2: Expected a dict"),
        (GOOD + "- epochs: 3\n", 3, None, "phase 2: The key 'layers' is mis"),
        (GOOD + "\n-\n  layer: 3\n", 5, "layer", "Did you mean 'layers'?"),
        (GOOD + "  learning_rat: 1\n", 3, "learning_rat", "'learning_rate'?"),
        (GOOD + "  decay: 0.5\n", 3, "decay", "Known keys: ['layers', 'epo"),
        (GOOD + "  epochs: ten\n", 3, "epochs", "epochs='ten'"),
        (GOOD + "  epochs: 2.0\n", 3, "epochs", "integer of at least 1"),
        (GOOD + "  patience: 0\n", 3, "patience", "integer of at least 1"),
        (GOOD + "  learning_rate: fast\n", 3, "learning_rate", "'fast'"),
        (GOOD + "  learning_rate: nan\n", 3, "learning_rate", "positive"),
        (GOOD + "  learning_rate: .inf\n", 3, "learning_rate", "positive"),
        (GOOD + "  schedule: [a]\n", 3, "schedule", "schedule=['a']"),
        (GOOD + "- {epochs: 1,\n   layers: [1]}\n", 4, "layers", "list of str"),
        (GOOD + "  layers: all\n", 3, "layers", "twice, before in line 2"),
        (GOOD + "phases: []\n", 3, "phases", "twice, before in line 1"),
        (GOOD + "  epochs: [1\n", 4, None, "not YAML"),
        (GOOD + "  layers : : x\n", 3, None, "not YAML"),
        (GOOD + "\tepochs: 1\n", 3, None, "not YAML"),
        (GOOD + "  epochs: 'one\n\n", 5, None, "not YAML"),
        (GOOD + "  epochs: *one\n", 3, None, "not YAML"),
        (GOOD + "---\n" + GOOD, 3, None, "not YAML"),
        (GOOD + "  epochs: !!python/name:os.system\n", 3, None, "not YAML"),
        (GOOD + "  ? [a]\n  : 1\n", 3, None, "not YAML"),
    ],
)
def test_errors_of_yaml_name_file_line_and_key(
    tmp_path, text, line, key, message
):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        Plan.load(path)
    found = str(caught.value)
    assert found.startswith(f"{path}, line {line}"), found
    assert message in found, found
    assert (f"key {key!r}: " in found) == (key is not None), found
    with pytest.raises(ValueError, match=f"^<string>, line {line}"):
        Plan.from_yaml(text)


@pytest.mark.parametrize(
    "value", ["2023-01-45", "!!float abc", "!!bool abc", "!!timestamp abc"]
)
def test_values_that_yaml_cannot_read_name_their_line(tmp_path, value):
    path = tmp_path / "plan.yaml"
    path.write_text(f"phases:\n- layers: head\n  epochs: {value}\n")
    with pytest.raises(ValueError, match=r"plan\.yaml, line 3: The value"):
        Plan.load(path)


def test_characters_that_yaml_forbids_are_an_error_of_the_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD + "  epochs: \x00\n")
    with pytest.raises(ValueError, match="plan.yaml.*not YAML"):
        Plan.load(path)


def test_the_path_is_of_yaml(tmp_path):
    for path in ("plan.json", tmp_path / "plan"):
        with pytest.raises(ValueError, match="must end in"):
            example().save(path)
        with pytest.raises(ValueError, match="must end in"):
            Plan.load(path)
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "missing.yaml")


def test_a_plan_of_before_is_read():
    plan = Plan.from_yaml(GOOD + "head_start: ridge\n")
    assert plan.head_initializer == "ridge"
