"""Calls that may hang, as the look-up of a name in a network does."""

import threading


def call_within(seconds, function):
    """Calls a function, and raises a `TimeoutError` where it takes too long.

    A timeout of a socket does not cover the look-up of the name.
    """
    answers = []

    def ask():
        try:
            answers.append((function(), None))
        except Exception as error:
            answers.append((None, error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise TimeoutError(f"no answer within {seconds} seconds")
    answer, error = answers[0]
    if error is not None:
        raise error
    return answer
