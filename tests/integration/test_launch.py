from tests.integration.conftest import *
def test_a(pair, here):
    f = here.job(*pair.arguments)
    f = here(*pair.arguments)
    print(f)
    assert 0
