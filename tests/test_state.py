"""Training state and epoch records."""

from __future__ import annotations

from dataclasses import fields

from mlpcli.config import OPTIMIZER_STATE, Config, TrainingConfig, rule_of
from mlpcli.state import EpochRecord, State, architecture_of


def test_fields_of_a_record_are_in_order():
    names = """epoch step learning_rate train_loss train_error validation_loss validation_error
        raw_validation_loss raw_validation_error examples_per_second seconds gradient_norm saturation"""
    assert [field.name for field in fields(EpochRecord)] == names.split()


def test_every_optimizer_has_its_state():
    assert set(OPTIMIZER_STATE) == set(rule_of(TrainingConfig, "optimizer").choices)


def test_model_of_a_run_is_the_average_if_any():
    architecture = architecture_of(Config(), 4, 3)
    theta, average = architecture.parameters("float32"), architecture.parameters("float32")
    assert State(theta).parameters is theta
    assert State(theta, average=average).parameters is average
