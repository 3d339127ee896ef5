from tests.training.conftest import _margins_are_trimmed  # noqa: F401 - a fixture
