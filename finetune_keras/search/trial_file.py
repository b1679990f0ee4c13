"""What a trial leaves in its folder, read without KerasTuner."""

import pathlib

from finetune_keras.arguments import one_of
from finetune_keras.data.facts import (
    DICT,
    NUMBER,
    TEXT,
    check_facts,
    list_of,
    read_json,
)

RESULT = "result.json"
_COMPLETED = {
    "values": DICT,
    "score": NUMBER,
    "scores": list_of(NUMBER),
    "plan": DICT,
    "seconds": NUMBER,
}
_FAILED = {"values": DICT, "reason": TEXT}


def read_result(folder):
    """Returns what a trial has left in its folder, or `None`."""
    path = pathlib.Path(folder, RESULT)
    if not path.exists():
        return None
    result = read_json(path, {"status": one_of("completed", "failed")})
    done = result["status"] == "completed"
    check_facts(result, _COMPLETED if done else _FAILED, path)
    return result
