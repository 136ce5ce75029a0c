from __future__ import annotations

import torch

from robustbench_gkl.config.schema import AveragingConfig
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.training.averaging import WeightAverage


def fresh() -> Classifier:
    torch.manual_seed(0)
    return create_model("wrn-10-1", num_classes=4, input_shape=(3, 8, 8)).double()


def disturb(model: Classifier, number: int) -> None:
    """Change all weights and statistics."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(1)


def copied(model: Classifier) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_the_average_per_epoch_is_that_of_the_epochs_states() -> None:
    live = fresh()
    average = WeightAverage(AveragingConfig(per="epoch", decay=0.9), live, total_steps=10)
    states = []
    for epoch in range(4):
        disturb(live, epoch)
        average.after_step(live, step=epoch + 1)
        average.after_epoch(live)
        states.append(copied(live))
    expected = states[0]
    for state in states[1:]:
        expected = {key: 0.9 * expected[key] + 0.1 * state[key] for key in expected}
    for key, value in average.model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert torch.equal(value, states[-1][key])
        else:
            torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=0)


def test_the_average_per_step_warms_up_and_copies_statistics() -> None:
    live = fresh()
    average = WeightAverage(AveragingConfig(per="step", decay=0.6, warmup=0.25), live, total_steps=20)
    parameters = {name for name, _ in live.named_parameters()}
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 21):
        disturb(live, step)
        average.after_step(live, step=step)
        average.after_epoch(live)
        since = step - 5.0
        decay = min(0.6, (1 + since) / (10 + since)) if since >= 0 else 0.0
        state = copied(live)
        old = expected or state
        expected = {
            key: decay * old[key] + (1 - decay) * state[key] if key in parameters else state[key] for key in state
        }
        for key, value in average.model.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=0)


def test_a_restored_average_goes_on_the_same_way() -> None:
    live = fresh()
    config = AveragingConfig(per="epoch", decay=0.5)
    average = WeightAverage(config, live, total_steps=10)
    disturb(live, 1)
    average.after_epoch(live)
    other = WeightAverage(config, fresh(), total_steps=10)
    other.restore({"model": copied(average.model), "started": average.state()["started"]})
    disturb(live, 2)
    for one in (average, other):
        one.after_epoch(live)
    for key, value in average.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key])


def test_the_average_is_no_part_of_the_live_model() -> None:
    live = fresh()
    average = WeightAverage(AveragingConfig(per="epoch"), live, total_steps=1)
    before = copied(average.model)
    disturb(live, 3)
    assert all(torch.equal(value, before[key]) for key, value in average.model.state_dict().items())
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
