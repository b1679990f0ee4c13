"""A worker's patience with a chief that is not there."""

import time

from finetune_keras.engine.packages import grpc

SECONDS = 60 * 60  # as long as KerasTuner itself waits


class SearchOver(Exception):
    """The chief has ended the search and gone."""


class PatientStub:
    """Sends a worker's requests again until a chief answers.

    KerasTuner's worker takes a chief that is killed for a failure of the trial
    that it runs, and waits an hour for one that has gone home.
    """

    def __init__(self, stub, is_over):
        self.stub = stub
        self.is_over = is_over

    def __getattr__(self, name):
        send = getattr(self.stub, name)
        return lambda request, **_: self._send(send, request)

    def _send(self, send, request):
        passing = (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        )
        end = time.monotonic() + SECONDS
        while True:
            try:
                return send(request, wait_for_ready=True, timeout=20)
            except grpc.RpcError as error:
                if error.code() not in passing or time.monotonic() > end:
                    raise
                if self.is_over():
                    raise SearchOver from error
                time.sleep(0.2)
