"""Searches that are killed, and searches of several processes."""

import json
import os
import pathlib
import random
import socket
import time

import keras_tuner
import pytest

from finetune_keras.search.oracles import make_oracle
from finetune_keras.search.result import Search
from finetune_keras.testing.processes import FreshProcess

SCRIPT = pathlib.Path(__file__).with_name("small_search.py")
ROOT = SCRIPT.parent.parent.parent


class Processes:
    """Processes of one search, and what they wrote."""

    def __init__(self, folder, algorithm, trials):
        self.folder = folder
        self.arguments = [folder, algorithm, trials]
        self.port = free_port()
        self.started = []

    def start(self, name=None):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        if name is not None:
            env["KERASTUNER_TUNER_ID"] = name
            env["KERASTUNER_ORACLE_IP"] = "127.0.0.1"
            env["KERASTUNER_ORACLE_PORT"] = str(self.port)
        self.started.append(FreshProcess(SCRIPT, *self.arguments, env=env))
        return self.started[-1]

    def ended(self):
        return len(list(self.folder.glob("trial_*/result.json")))

    def wait_for(self, count):
        deadline = time.monotonic() + 120
        while self.ended() < count:
            assert time.monotonic() < deadline, self.output()
            assert any(p.poll() is None for p in self.started), self.output()
            time.sleep(0.02)

    def output(self):
        return [(p.stdout + p.stderr)[-4000:] for p in self.started]

    def runs(self):
        return self.folder.with_suffix(".log").read_text().splitlines()


@pytest.fixture
def processes(tmp_path):
    made = []

    def make(*arguments):
        made.append(Processes(tmp_path / f"search{len(made)}", *arguments))
        return made[-1]

    yield make
    for process in [p for one in made for p in one.started]:
        process.kill()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def results(folder):
    return {
        str(row["trial"]): (row["status"], row["values"], row.get("score"))
        for row in Search(folder).trials
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results of searches that nobody kills, by algorithm."""
    known = {}

    def get(algorithm, trials):
        from small_search import run

        if algorithm not in known:
            folder = tmp_path_factory.mktemp(algorithm) / "search"
            run(folder, algorithm, trials)
            known[algorithm] = results(folder)
        return known[algorithm]

    return get


@pytest.fixture(autouse=True)
def find_the_script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


# The longer one where time is no matter.
MANY = int(os.environ.get("FINETUNE_KERAS_KILLS", 1)) > 1
TRIALS = 6 if MANY else 5


@pytest.mark.parametrize(
    "algorithm", ["random", "hyperband"] if MANY else ["random"]
)
def test_a_killed_search_ends_as_if_it_had_not_been(
    processes, undisturbed, algorithm
):
    rng = random.Random(algorithm)
    search = processes(algorithm, TRIALS)
    for count in (1, 3):
        process = search.start()
        search.wait_for(count)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
    finished = results(search.folder)
    assert search.start().wait() == 0, search.output()
    found = results(search.folder)
    assert found == undisturbed(algorithm, TRIALS)
    for name, result in finished.items():
        assert result[0] == "running" or found[name] == result
    # What had ended was not run again.
    assert len(search.runs()) <= TRIALS + 2


def test_chief_and_two_workers_run_every_trial_once(processes, undisturbed):
    search = processes("random", TRIALS)
    started = [search.start(name) for name in ("chief", "one", "two")]
    assert [p.wait() for p in started] == [0, 0, 0], search.output()
    assert results(search.folder) == undisturbed("random", TRIALS)
    assert len(search.runs()) == len(set(search.runs())) == TRIALS


def test_killed_worker_and_chief_lose_no_trial(processes, undisturbed):
    search = processes("random", TRIALS)
    chief, one, two = (search.start(name) for name in ("chief", "one", "two"))
    search.wait_for(1)
    one.kill()
    one = search.start("one")
    search.wait_for(3)
    chief.kill()
    time.sleep(0.5)
    chief = search.start("chief")
    assert [p.wait() for p in (chief, one, two)] == [0, 0, 0], search.output()
    assert results(search.folder) == undisturbed("random", TRIALS)
    assert len(search.runs()) <= TRIALS + 1


def test_a_score_that_was_told_to_a_killed_chief_is_known(tmp_path):
    objective = keras_tuner.Objective("val_loss", "min")

    def chief():
        oracle = make_oracle("random", objective, 2, 1, None)
        oracle._set_project_dir(tmp_path, "search")
        return oracle

    first = chief()
    trial = first.create_trial("one")
    first.update_trial(trial.trial_id, {"val_loss": 0.25})
    result = {
        "status": "completed",
        "values": {},
        "score": 0.25,
        "scores": [0.25],
        "plan": {},
        "seconds": 1.0,
    }
    folder = tmp_path / "search" / "trial_0"
    (folder / "result.json").write_text(json.dumps(result))
    first.save()
    second = chief()
    second.reload()
    (lost,) = second.trials.values()
    assert not lost.metrics.exists("val_loss")
    trial.status = "COMPLETED"
    second.end_trial(trial)
    assert second.trials[trial.trial_id].score == 0.25
