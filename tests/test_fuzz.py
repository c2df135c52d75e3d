"""A fuzzer over the public functions: a call gives an answer, or an error that names the argument.

Every argument is drawn from what its name may hold; then up to two of them are spoiled: wrong
types, shapes, dtypes, layouts, devices, NaN, nothing at all, numbers at their ends. Allowed are a
result, or a ValueError, TypeError, IndexError or OSError whose words name an argument. Whatever
happens, no input, weight, buffer, mode or global generator may change.

FLOWROB_FUZZ=20000 sets how many calls are made in all (default: what a minute holds).
"""

from __future__ import annotations

import copy
import inspect
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowrob import attacks, data, evaluation, flows, linear, training, units, zoo
from flowrob.records import check_writable

CALLS = int(os.environ.get("FLOWROB_FUZZ", "900"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DIMS = 4
FLOW = flows.glow((1, 4, 4), num_levels=1, num_steps=1, width=4)
FLOW.initialize(torch.rand(8, 1, 4, 4, generator=seeded()))
FLOW.eval()
GAUSSIAN = linear.GaussianFlow(torch.full((DIMS,), 0.5), torch.diag(torch.arange(1.0, DIMS + 1)))
IMAGES = torch.randint(0, 256, (3, 1, 4, 4), generator=seeded()).to(torch.uint8)
X = torch.rand(3, DIMS, generator=seeded())
PICTURES = torch.rand(3, 1, 4, 4, generator=seeded())


def quadratic(y: Tensor) -> Tensor:
    """An objective for any batch."""
    return -(y.flatten(1) - 0.3).square().sum(1)


def of(*values: Any) -> st.SearchStrategy:
    return st.sampled_from([lambda value=value: copy.deepcopy(value) for value in values])


def made(*makers: Callable[[], Any]) -> st.SearchStrategy:
    return st.sampled_from(makers)


# What an argument of a name may hold. Values are made afresh for each call, so that a call which
# changes one is caught.
KNOWN: dict[str, st.SearchStrategy] = {
    "objective": of(quadratic),
    "log_prob": made(lambda: quadratic, lambda: FLOW.log_prob),
    "models": made(lambda: quadratic, lambda: FLOW.log_prob, lambda: {"a": quadratic}),
    "x": of(X, X.double(), PICTURES, torch.zeros(0, DIMS)),
    "ball": of(*[k(r) for k in (attacks.LinfBall, attacks.L2Ball) for r in (0.0, 1e-9, 0.1, 1e9)]),
    "radius": of(0.0, 1e-9, 0.1, 3.0),
    "num_steps": of(1, 2, 3),
    "schedule": of("constant", "cosine", "auto"),
    "momentum": of(None, 0.0, 0.5),
    "start": of("x", "random", X),
    "restarts": of(1, 2),
    "box": of((0.0, 1.0), None, (-1.0, 2.0)),
    "batch_size": of(None, 1, 2),
    "generator": made(seeded),
    "share": of(0.5, 1.0),
    "images": of(IMAGES),
    "in_images": of(IMAGES),
    "out_images": of(IMAGES.flip(0)),
    "levels": of(IMAGES, IMAGES.float()),
    "eps": of(0, 1, 2),
    "goal": of("lower", "raise"),
    "noise": of("fixed", "midpoint", "expected"),
    "kind": of("fixed", "midpoint", "expected"),
    "norm": of(attacks.LinfBall, attacks.L2Ball),
    "num_draws": of(1, 2),
    "quantize": of(True, False),
    "gaussian": made(lambda: GAUSSIAN),
    "flow": made(lambda: GAUSSIAN),
    "dtype": of(torch.float32, torch.float64),
    "uniform_weight": of(0.01, 0.5),
    "weight": of(0.01, 0.5),
    "num_resamples": of(1, 20),
    "groups": of(None, torch.tensor([0, 0, 1])),
    "num_dims": of(1, 16),
    "values": of(torch.arange(3.0)),
    "level": of(0.5, 0.95),
    "image_shape": of((1, 4, 4), (3, 8, 8)),
    "num_levels": of(1, 2),
    "width": of(2, 4),
    "num_blocks": of(1),
    "min_scale": of(0.0, 0.01),
    "log_range": of(1.0, 2.0),
    "published_prior": of(False, True),
    "name": of("photos", "glow-photos-clean", "tests"),
    "split": of(None, "train", "test"),
    "size": of(4, 8),
    "channels": of(1, 3),
    "indices": of(None, slice(0, 3), [0, 2]),
    "limit": of(1, 3),
    "root": of(None, "/nowhere"),
    "download": of(False),
    "device": of("cpu"),
    "path": made(lambda: os.path.join(tempfile.mkdtemp(prefix="fuzz-"), "a.safetensors")),
}

SPOILED = made(
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 0.5,
    lambda: 1e300,
    lambda: -1e-300,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: "",
    lambda: "nonsense",
    lambda: b"bytes",
    lambda: [],
    lambda: [1.0, 2.0],
    lambda: (),
    lambda: {},
    lambda: object(),
    lambda: np.zeros((3, DIMS)),
    lambda: torch.tensor(0.1),
    lambda: torch.zeros(0),
    lambda: torch.zeros(0, DIMS),
    lambda: torch.zeros(3, 0),
    lambda: torch.zeros(3),
    lambda: X[:, :2],
    lambda: X.T.contiguous().T,
    lambda: X.half(),
    lambda: X.bfloat16(),
    lambda: X.to(torch.complex64),
    lambda: X.to_sparse(),
    lambda: X.to("meta"),
    lambda: X.long(),
    lambda: X > 0.5,
    lambda: X * float("nan"),
    lambda: X + float("inf"),
    lambda: X.clone().requires_grad_(),
    lambda: 300.0 * X,
    lambda: IMAGES,
    lambda: IMAGES.flatten(),
    lambda: IMAGES[:0],
    lambda: IMAGES.to("meta"),
    lambda: lambda y: y,
    lambda: lambda y: y.sum(),
    lambda: lambda y: None,
    lambda: lambda y: y.flatten(1).sum(1) * float("nan"),
    lambda: lambda y: y.detach().flatten(1).sum(1),
    lambda: torch.Generator,
)

# Each public function with the arguments that the fuzzer gives it.
TARGETS: dict[str, tuple[Callable, str]] = {
    "dequantize": (units.dequantize, "images generator dtype"),
    "midpoint": (units.midpoint, "images dtype"),
    "quantize": (units.quantize, "x"),
    "pgd": (
        attacks.pgd,
        "objective x ball num_steps schedule momentum start restarts box batch_size generator",
    ),
    "square": (attacks.square, "objective x ball num_steps share box batch_size generator"),
    "lower_likelihood": (attacks.lower_likelihood, "log_prob x ball num_steps box generator"),
    "raise_likelihood": (attacks.raise_likelihood, "log_prob x ball num_steps box generator"),
    "uniform_noise": (attacks.uniform_noise, "x radius generator box"),
    "universal_perturbation": (
        attacks.universal_perturbation,
        "log_prob x ball box batch_size num_steps",
    ),
    "linear_attack": (attacks.linear_attack, "log_prob gaussian x ball box batch_size"),
    "attack_images": (
        attacks.attack_images,
        "log_prob images eps goal norm noise num_draws quantize batch_size generator num_steps",
    ),
    "dequantization_noise": (attacks.dequantization_noise, "images kind generator num_draws"),
    "LinfBall": (lambda radius, x: attacks.LinfBall(radius).on(x), "radius x"),
    "L2Ball": (lambda radius, x: attacks.L2Ball(radius).on(x), "radius x"),
    "log_prob": (lambda x: FLOW.log_prob(x), "x"),
    "glow": (flows.glow, "image_shape num_levels num_steps width min_scale published_prior"),
    "realnvp": (flows.realnvp, "image_shape num_levels width num_blocks log_range"),
    "plane_flow": (flows.plane_flow, "num_steps width"),
    "worst_case": (linear.worst_case, "flow x radius"),
    "best_case": (linear.best_case, "flow x radius"),
    "universal": (linear.universal, "flow radius"),
    "gibbs_floor": (evaluation.gibbs_floor, "eps images"),
    "uniform_ceiling": (evaluation.uniform_ceiling, "weight num_dims"),
    "bootstrap_interval": (
        evaluation.bootstrap_interval,
        "values generator num_resamples level groups",
    ),
    "robustness_table": (
        lambda models, images, eps, **more: evaluation.robustness_table(
            models, images, [eps], attack_options={"num_steps": 1}, **more
        ),
        "models images eps generator goal noise uniform_weight num_resamples groups",
    ),
    "detection_table": (
        lambda log_prob, in_images, out_images, eps, **more: evaluation.detection_table(
            log_prob, in_images, out_images, [eps], attack_options={"num_steps": 1}, **more
        ),
        "log_prob in_images out_images eps generator noise",
    ),
    "load": (data.load, "name split size channels indices limit root download"),
    "zoo.load": (zoo.load, "name device"),
    "fit": (
        lambda images, num_steps, batch_size: training.fit(
            flows.glow((1, 4, 4), 1, 1, 2),
            images,
            num_steps=num_steps,
            batch_size=1 if batch_size is None else batch_size,
            progress=False,
        ),
        "images num_steps batch_size",
    ),
    "check_writable": (lambda path: check_writable(path), "path"),
}


def frozen_state(value: Any) -> Any:
    """A copy that shows whether ``value`` was changed."""
    if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
        return (value.detach().clone(), value.requires_grad, value.grad)
    return None


def same(value: Any, before: Any) -> bool:
    """Whether it is as it was."""
    if before is None:
        return True
    kept, requires_grad, grad = before
    equal = torch.equal(value.detach().nan_to_num(7.0), kept.nan_to_num(7.0))
    return equal and value.requires_grad == requires_grad and value.grad is grad


def model_state() -> list[Any]:
    """Weights, buffers, gradients and modes of the shared model; the global generator."""
    tensors = [value.clone() for value in FLOW.state_dict().values()]
    flags = [(p.requires_grad, p.grad is None) for p in FLOW.parameters()]
    return [*tensors, torch.get_rng_state(), flags, [m.training for m in FLOW.modules()]]


def unchanged(before: list[Any]) -> bool:
    """Whether the shared model and the global generator are as they were."""
    return all(
        torch.equal(old, new) if isinstance(old, Tensor) else old == new
        for old, new in zip(before, model_state(), strict=True)
    )


def names_an_argument(error: Exception, values: dict[str, Any]) -> bool:
    """Whether the words of an error name an argument, or a file that was given."""
    said, names = str(error), [*values]
    texts = [value for value in values.values() if isinstance(value, str)]
    if any(repr(text) in said or (len(text) > 3 and text in said) for text in texts):
        return True
    words = {*re.findall(r"[a-z_0-9]+", said.lower())}
    known = {*names, "step_size", "objective", "noise", "weight"} | {
        name.rstrip("s") for name in names
    }
    return bool(words & {name.lower() for name in known})


@pytest.mark.parametrize("target", TARGETS)
def test_any_call_gives_an_answer_or_names_the_argument(target):
    function, told = TARGETS[target]
    names = told.split()
    assert {*names} <= {*KNOWN}
    inspect.signature(function)  # what is fuzzed can be called by keyword

    @settings(
        max_examples=max(1, CALLS // len(TARGETS)),
        deadline=None,
        derandomize="FLOWROB_FUZZ" not in os.environ,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=[*HealthCheck],
    )
    @given(call=st.data())
    def run(call):
        makers = {name: call.draw(KNOWN[name], label=name) for name in names}
        for name in call.draw(st.lists(st.sampled_from(names), max_size=2, unique=True)):
            makers[name] = call.draw(SPOILED, label=f"spoiled {name}")
        given_values = {name: make() for name, make in makers.items()}
        before, copies = model_state(), {n: frozen_state(v) for n, v in given_values.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # shown at the end, and no failure here
            try:
                function(**given_values)
            except (ValueError, TypeError, OSError, IndexError) as error:
                if not names_an_argument(error, given_values):
                    raise AssertionError(f"{target}: {error!r} names no argument") from error
        assert all(same(given_values[name], copies[name]) for name in names), "an input changed"
        assert unchanged(before), "the model or the global generator changed"

    run()
