import pytest

from tests.oracles.judging.served import Served


@pytest.fixture
def served():
    one = Served()
    yield one
    one.server.shutdown()
    one.server.server_close()
