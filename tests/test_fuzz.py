"""A fuzzer over all public functions: a call gives an answer, or an error that names the argument.

What is public is read off the package, so that a new function without a target fails here.

Every argument is drawn from what its name may hold; then up to two of them are spoiled: wrong
types, shapes, dtypes, layouts, devices, NaN, nothing at all, numbers at their ends. Allowed are a
result, or a ValueError, TypeError or OSError (and what DOCUMENTED lists) whose words name an
argument. Whatever happens, no input, weight, buffer, mode or global generator may change. A
function that the caller wrote may raise what it likes: that is handed on as it is.

FLOWROB_FUZZ=20000 sets how many calls are made in all (default: what a minute holds).
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import math
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor

import flowrob
from flowrob import (
    attacks,
    cli,
    data,
    distributed,
    evaluation,
    flows,
    lessons,
    linear,
    paper,
    plots,
    records,
    training,
    units,
    zoo,
)

pytest.importorskip("ipywidgets")
from flowrob import widgets

CALLS = int(os.environ.get("FLOWROB_FUZZ", "1400"))


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


def fresh_flow() -> flows.Flow:
    """The shared flow, as a copy that a call may train."""
    return copy.deepcopy(FLOW)


WALK = widgets.layer_walk(FLOW, PICTURES[:1], PICTURES[1:2])
GRID = {
    ("clean", "worst", eps): (PICTURES, torch.tensor([3.0, 4.0, 5.0]) + eps)
    for eps in widgets.ATTACK_EPS
}


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
    # Where a name holds something else than above: "name:what".
    "x:picture": of(PICTURES),
    "z:picture": of(PICTURES),
    "x_attacked": of(PICTURES.flip(0)),
    "x:one": of(PICTURES[:1]),
    "attacked": of(PICTURES[1:2]),
    "flow:deep": made(lambda: FLOW),
    "model": made(lambda: GAUSSIAN),
    "truth": made(lambda: GAUSSIAN),
    "num_samples": of(1, 8),
    "temperature": of(0.0, 0.7, 1.0),
    "mean": of([0.0, 1.0], torch.zeros(2)),
    "covariance": of([[1.0, 0.0], [0.0, 2.0]], torch.eye(2).double()),
    "eigenvalues": of([1.0, 2.0], torch.ones(3)),
    "rounds": of(0, 1, 3),
    "procedure": of("rescaled", "a", "b", "accumulated", "fixed"),
    "quantile": of("exact", "paper"),
    "signs": of("one", "both"),
    "hybrid_weight": of(0.0, 0.5),
    "damping": of(0.0, 0.5),
    "weights": of((0.0, 1.0), (0.5,)),
    "weights:shares": of(None, (0.5, 0.5)),
    "weight:price": of(0.0, 0.5),
    "eps:real": of(0.0, 0.5, 1.0),
    "eps:many": of((0, 1), (2,)),
    "sigma": of(0.5, 1.0),
    "n": of(2, 10, 200),
    "v": of(1.0, 2.0),
    "max_drop": of(0.5, 10.0),
    "failure": of(0.01, 0.5),
    "scale": of(1.0, 2.0),
    "degrees": of(1.0, 5.0, math.inf),
    "parameter": of("scale", "degrees"),
    "values:bases": of((1.0, 2.0), (5.0,)),
    "seed": of(0, 7),
    "bits": of(torch.rand(2, 3), torch.rand(2)),
    "first": of(torch.rand(3)),
    "second": of(torch.rand(3)),
    "log_prob:values": of(torch.tensor([-3.0, 4.0])),
    "noise:drawn": of(torch.full((1, 3, 1, 4, 4), 0.5), torch.full((3, 1, 4, 4), 0.5)),
    "steps": of((1, 2), (20,)),
    "auto": of(True, False, 10),
    "head": of(["a", "b"]),
    "lines:text": of([["1", "2"]]),
    "first_steps": of(1, 5),
    "max_steps": of(10, 40),
    "least_steps": of(1, 5),
    "mean_gain": of(0.01),
    "image_gain": of(0.05),
    "patience": of(1, 2),
    "enough": of(1.0, 32.0),
    "rows": of([{"row": "clean", "mean": 1.0}], []),
    "caption": of("A caption"),
    "parts": made(lambda: [FLOW, FLOW], lambda: {"a": FLOW}),
    "parts:files": of({"a": "a.safetensors"}),
    "height": of(2, 4),
    "parity": of(0, 1),
    "in_channels": of(1, 2),
    "out_channels": of(1, 4),
    "num_channels": of(1, 4),
    "n_in": of(1, 2),
    "n_out": of(1, 2),
    "alpha": of(0.0, 0.05),
    "state_dict": made(lambda: FLOW.state_dict()),
    "layout": of("nonsense", "normflows", "glow-pytorch"),
    "name:published": of("glow-cifar10x", "realnvp-64x"),
    "training": of("clean", "hybrid"),
    "tensors": of({"a": X}),
    "words": of({"made": "here"}),
    "words:names": of(["made"]),
    "content": of({"a": [1.0, math.inf], "b": None}),
    "program": of("python -m flowrob"),
    "argv": of(["table", "1"]),
    "argv:broken": of(["tables"], ["table", "one"], []),
    "package": of("torch", "no-such-package"),
    "packages": of(("numpy",)),
    "started": of(0.0),
    "command": of("a command"),
    "processes": of(1, 2),
    "rank": of(0, 1),
    "size:group": of(1, 2),
    "group": made(lambda: distributed.Group()),
    "num_rows": of(0, 1, 5),
    "recipe": of({"data": "here"}),
    "loss": of("clean", "hybrid"),
    "share:loss": of(0.0, 0.5),
    "eps:loss": of(1.0, 8.0),
    "random_eps": of(0.0, 0.5),
    "attack_steps": of(1, 2),
    "eps_warmup_steps": of(0, 2),
    "attack_warmup_steps": of(0, 2),
    "attack_dtype": of(None, "bfloat16"),
    "memory": of(training.Fresh(), training.Pool(2)),
    "optimizer": of("adam", "muon"),
    "learning_rate": of(0.0, 1e-3),
    "warmup_steps": of(0, 2),
    "max_grad_norm": of(1.0),
    "ema_decay": of(0.0, 0.5),
    "explode_above": of(2.0, math.inf),
    "visits": of(2, 3),
    "every": of(1, 2),
    "keep_best": of(True, False),
    "lr": of(1e-3),
    "momentum:muon": of(0.0, 0.9),
    "params": made(lambda: [torch.nn.Parameter(torch.zeros(2, 2))]),
    "mean:bits": of(0.0, 4.5),
    "bits:images": of(torch.rand(3)),
    "images:coded": of(IMAGES),
    "p": of(0.1, 0.5),
    "confidence": of(0.5, 0.99),
    "num_samples:draws": of(10, 60),
    "eps:radii": of(0.0, 0.1, [0.1, 0.2]),
    # lessons
    "value": of(12.3, 1e9, 4),
    "digits": of(1, 2, 3),
    "bits_per_dim": of(0.0, 1.5, -2.0),
    "question": of("How much?"),
    "options": of(("a", "b"), (1.0, 10.0)),
    "name:question": of("fuzzed"),
    "truth:answer": of("a", 3.0),
    "sentence": of("it costs {} bits/dim"),
    "at_least": of(None, 1.0),
    "at_most": of(None, 1e3),
    "within": of(0.001, 0.1),
    "noise:flag": of(True, False),
    "rows:verdicts": of([("a", "b", "c", "agrees")]),
    "given": of(None, 1.0, torch.ones(2)),
    "truth:number": of(1.0, torch.ones(2)),
    "unit": of("", "nats"),
    # plots
    "ax": made(lambda: Figure().subplots()),
    "axes": made(lambda: Figure().subplots(1, 3, squeeze=False)),
    "figure": made(lambda: Figure()),
    "alt": of("A picture of nothing at all"),
    "picture": of(PICTURES[0], IMAGES[0]),
    "x:image": of(PICTURES[0], IMAGES[0]),
    "images:drawn": of(PICTURES, IMAGES),
    "columns": of(1, 8),
    "title": of("", "a title"),
    "pad": of(0, 1),
    "x:plane": of([0.0, 1.0], torch.ones(2)),
    "x:line": of(torch.arange(3.0), [0.0, 1.0, 2.0]),
    "radii": of((1, 2)),
    "steps:arrows": of([("worst", [0.1, 0.2], plots.ATTACK)], []),
    "half_width": of(3.5),
    "drop": of(torch.rand(3)),
    "degrees:line": of(torch.arange(3.0)),
    "eta": of(torch.arange(3.0)),
    "length": of(torch.rand(3)),
    "poles": of(torch.ones(2)),
    "roots": of(torch.ones(1)),
    "colors": of([plots.ATTACK]),
    "lines": of([("a", torch.rand(3), plots.DATA)]),
    "lines:styled": of([("a", torch.rand(3) + 1, plots.DATA, "o-")]),
    "lines:plane": of(torch.rand(2, 5, 2)),
    "xlabel": of("x"),
    "ylabel": of("y"),
    "log": of("", "xy"),
    "log:flag": of(True, False),
    "scale:drawn": of(None, 0.1),
    "mark": of(1.0),
    "groups:gaps": of({"a": (torch.rand(3, 2), plots.DATA)}),
    "groups:values": of({"a": torch.rand(3) + 1}),
    "groups:drawn": of([("a", torch.rand(5), plots.DATA)]),
    "floor": of(1e-9),
    "floor:line": of(None, torch.ones(3)),
    "landmarks": of({"nothing": 8.0}),
    "top": of(1e5),
    "points": of(torch.rand(4, 2)),
    "steps:points": of(torch.rand(4, 2)),
    "color": of(plots.DATA),
    "labels": of(["a", "b"]),
    "parts:bars": of([("one", torch.rand(2), plots.DATA)]),
    "theory": of(torch.rand(1, 2)),
    "before": of(torch.rand(3)),
    "after": of(torch.rand(3) + 1),
    "eps:line": of((0, 1, 2)),
    "rows:images": of({"clean": PICTURES}),
    "values:images": of({"clean": [1.0, 2.0, 300.0]}),
    "bins": of(3, 40),
    "frontier": of((torch.arange(3.0), torch.rand(3) + 1)),
    "edges": of(torch.tensor([0.0, 1.0, 2.0])),
    "density": of(torch.rand(3) + 1),
    "x1": of(torch.arange(3.0)),
    "x2": of(torch.arange(3.0)),
    "values:plane": of(torch.rand(3, 3)),
    "gap": of(0.05, 0.1),
    # widgets
    "grid": made(lambda: GRID),
    "photograph": of(0, 2),
    "eps:shown": of(0, 8),
    "change": of("worst"),
    "model:shown": of("clean"),
    "walk": made(lambda: WALK),
    "layer": of(0, 1),
    "h": of(PICTURES[0], torch.rand(6, 2, 2)),
    "levels:layers": of([1, 1, 2]),
    "distance": of([1.0, 2.0, 4.0]),
    "chosen": of(None, 1),
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
    "check_writable": (lambda path: records.check_writable(path), "path"),
    # attacks, units
    "score_images": (attacks.score_images, "log_prob levels noise:drawn batch_size"),
    "units.bits_per_dim": (units.bits_per_dim, "log_prob:values num_dims"),
    "check_dense": (units.check_dense, "x"),
    "check_number": (lambda radius: units.check_number(radius=radius), "radius"),
    "check_images": (units.check_images, "images"),
    # data, zoo, paper, cli, distributed, flowrob itself
    "photo_crops": (data.photo_crops, "split size"),
    "photo_tiles": (data.photo_tiles, "split size"),
    "names": (zoo.names, ""),
    "recipe": (zoo.recipe, "name"),
    "save": (zoo.save, "flow:deep path recipe dtype"),
    "save_mixture": (zoo.save_mixture, "path parts:files weights:shares"),
    "table_1": (paper.table_1, "training"),
    "table_2": (paper.table_2, "training"),
    "main": (cli.main, "argv:broken"),
    "Group": (lambda rank, size: distributed.Group(rank, size), "rank size:group"),
    "rows": (lambda num_rows: distributed.Group().rows(num_rows), "num_rows"),
    "sharded": (
        lambda log_prob, group: distributed.sharded(log_prob, group),
        "log_prob group",  # no x: of one process it is log_prob itself
    ),
    "scale": (flowrob.scale, "device"),
    # records
    "write_whole": (lambda path: records.write_whole(path, lambda p: p.touch()), "path"),
    "digest": (records.digest, "tensors"),
    "write_tensors": (records.write_tensors, "path kind tensors words"),
    "read_tensors": (records.read_tensors, "path kind words:names"),
    "locked": (lambda path: records.locked(path).__enter__(), "path"),
    "write_json": (records.write_json, "path content"),
    "as_json": (records.as_json, "content"),
    "plain": (records.plain, "content"),
    "circumstances": (records.circumstances, "started command packages processes"),
    "installed": (records.installed, "package"),
    "command_line": (records.command_line, "program argv"),
    # flows
    "Flow.encode": (lambda x: FLOW.encode(x), "x:picture"),
    "Flow.decode": (lambda z: FLOW.decode(z), "z:picture"),
    "Flow.bits_per_dim": (lambda x: FLOW.bits_per_dim(x), "x:picture"),
    "Flow.sample": (lambda **more: FLOW.sample(**more), "num_samples generator temperature"),
    "Flow.initialize": (lambda x: fresh_flow().initialize(x), "x:picture"),
    "FlowMixture": (
        lambda parts, weights: flows.FlowMixture(parts, weights),
        "parts weights:shares",
    ),
    "FlowMixture.log_prob": (lambda x: flows.FlowMixture([FLOW]).log_prob(x), "x:picture"),
    "FlowMixture.posterior": (lambda x: flows.FlowMixture([FLOW]).posterior(x), "x:picture"),
    "FlowMixture.sample": (
        lambda **more: flows.FlowMixture([FLOW]).sample(**more),
        "num_samples generator temperature",
    ),
    "checkerboard": (flows.checkerboard, "height width parity"),
    "conv_net": (flows.conv_net, "in_channels out_channels width generator"),
    "mlp": (flows.mlp, "n_in n_out width generator"),
    "ResidualNet": (
        lambda **more: flows.ResidualNet(**more),
        "in_channels out_channels width num_blocks generator",
    ),
    "ActNorm": (lambda num_channels: flows.ActNorm(num_channels), "num_channels"),
    "InvertibleConv1x1": (
        lambda num_channels, generator: flows.InvertibleConv1x1(num_channels, generator),
        "num_channels generator",
    ),
    "ZeroConv2d": (lambda **more: flows.ZeroConv2d(**more), "in_channels out_channels"),
    "Logit": (lambda alpha: flows.Logit(alpha), "alpha"),
    "import_state_dict": (flows.import_state_dict, "state_dict layout image_shape"),
    "invertibility": (flows.invertibility, "flow:deep x:picture"),
    "published": (flows.published, "name:published"),
    "standard_normal_log_prob": (flows.standard_normal_log_prob, "z:picture"),
    # linear
    "GaussianFlow": (lambda **more: linear.GaussianFlow(**more), "mean covariance"),
    "GaussianFlow.log_prob": (lambda x: GAUSSIAN.log_prob(x), "x"),
    "GaussianFlow.encode": (lambda x: GAUSSIAN.encode(x), "x"),
    "GaussianFlow.sample": (lambda **more: GAUSSIAN.sample(**more), "num_samples generator"),
    "certificate": (linear.certificate, "truth model radius weight:price num_samples generator"),
    "chi_mean": (linear.chi_mean, "n"),
    "failure_probability": (linear.failure_probability, "v eps:real sigma n max_drop"),
    "linf_bound": (linear.linf_bound, "flow x radius"),
    "natural_drop": (linear.natural_drop, "v n"),
    "pareto_frontier": (linear.pareto_frontier, "flow radius weights num_samples generator"),
    "retrain": (
        linear.retrain,
        "flow radius rounds procedure hybrid_weight damping num_samples generator",
    ),
    "rounds_for": (linear.rounds_for, "eps:real sigma n max_drop failure procedure quantile"),
    "sensitivity": (linear.sensitivity, "v eps:real sigma n"),
    "spherical_growth": (
        linear.spherical_growth,
        "eps:real sigma n rounds procedure hybrid_weight damping",
    ),
    "stability_limit": (linear.stability_limit, "n hybrid_weight damping"),
    "trade_off": (linear.trade_off, "truth model radius num_samples generator"),
    "universal_drop": (linear.universal_drop, "truth model radius"),
    "universal_training": (linear.universal_training, "flow radius rounds signs damping"),
    "variance_growth": (linear.variance_growth, "eps:real sigma n"),
    "water_filling": (linear.water_filling, "eigenvalues radius"),
    "worst_case_linf": (linear.worst_case_linf, "flow x radius restarts generator"),
    # evaluation
    "Table": (
        lambda rows, caption: evaluation.Table(rows, caption).to_json(),
        "rows caption",
    ),
    "Budget": (
        lambda **more: evaluation.Budget(**more),
        "first_steps max_steps least_steps mean_gain image_gain patience enough",
    ),
    "activations": (evaluation.activations, "flow:deep x:picture"),
    "anatomy": (evaluation.anatomy, "flow:deep x:picture x_attacked"),
    "bits_per_dim": (evaluation.bits_per_dim, "log_prob:values num_dims"),
    "choose_base": (
        evaluation.choose_base,
        "flow:deep parameter values:bases images eps seed group",
    ),
    "converged_table": (
        lambda eps, **more: evaluation.converged_table(
            eps=eps, budget=evaluation.Budget(1, 4, 1), num_resamples=10, **more
        ),
        "models images eps:many generator uniform_weight groups",
    ),
    "strongest_table": (
        lambda eps, **more: evaluation.strongest_table(
            eps=eps, attacks={"short": {"num_steps": 1}}, num_resamples=10, **more
        ),
        "models images eps:many generator noise:flag uniform_weight groups",
    ),
    "strongest_table of a mixture": (
        lambda eps, weights, **more: evaluation.strongest_table(
            evaluation.mixture(FLOW.log_prob, evaluation.uniform, weights=weights),
            eps=eps,
            attacks={"short": {"num_steps": 1}},
            num_resamples=10,
            **more,
        ),
        "images eps:many generator weights:shares",
    ),
    "mixture": (
        lambda log_prob, weights, x: evaluation.mixture(log_prob, log_prob, weights=weights)(x),
        "log_prob weights:shares x",
    ),
    "mixture_bound": (evaluation.mixture_bound, "bits num_dims weights:shares"),
    "paired_difference": (
        evaluation.paired_difference,
        "first second generator num_resamples groups",
    ),
    "pipe_table": (evaluation.pipe_table, "head lines:text"),
    "rebased": (
        lambda flow, scale, degrees, x: evaluation.rebased(flow, scale, degrees)(x),
        "flow:deep scale degrees x:picture",
    ),
    "schedules": (evaluation.schedules, "steps auto"),
    "uniform": (evaluation.uniform, "x"),
    "typicality": (
        lambda log_prob, mean, x: evaluation.typicality(log_prob, mean)(x),
        "log_prob mean:bits x",
    ),
    "complexity_corrected": (evaluation.complexity_corrected, "bits:images images"),
    "codec_bits": (evaluation.codec_bits, "images:coded"),
    "order_statistic": (evaluation.order_statistic, "p num_samples:draws confidence"),
    "certify_median": (
        evaluation.certify_median,
        "log_prob x sigma eps:radii num_samples:draws confidence generator box batch_size",
    ),
    "top_singular_values": (
        evaluation.top_singular_values,
        "flow:deep x:picture num_steps generator",
    ),
    "Anatomy.gain": (
        lambda x, x_attacked: evaluation.anatomy(FLOW, x, x_attacked).gain,
        "x:picture x_attacked",
    ),
    # training
    "Checkpoint": (lambda path, every: training.Checkpoint(path, every), "path every"),
    "Guard": (lambda explode_above: training.Guard(explode_above), "explode_above"),
    "Loss": (
        lambda **more: training.Loss(**more),
        "share:loss eps:loss random_eps eps_warmup_steps attack_steps attack_warmup_steps "
        "attack_dtype memory",
    ),
    "Muon": (lambda **more: training.Muon(**more), "params lr momentum:muon"),
    "Pool": (lambda visits: training.Pool(visits), "visits"),
    "Update": (
        lambda **more: training.Update(**more),
        "optimizer learning_rate warmup_steps max_grad_norm ema_decay",
    ),
    "Validation": (lambda **more: training.Validation(**more), "images every keep_best"),
    # lessons
    "rounded": (lessons.rounded, "value digits"),
    "times_less_probable": (lessons.times_less_probable, "bits_per_dim num_dims"),
    "predict": (lessons.predict, "name:question question options"),
    "outcome": (lessons.outcome, "name:question truth:answer digits"),
    "calibration": (lessons.calibration, ""),
    "check": (
        lambda sentence, value, **more: lessons.check(sentence, value, **more),
        "sentence value at_least at_most digits noise:flag",
    ),
    "verdicts": (lessons.verdicts, "rows:verdicts"),
    "grade": (lessons.grade, "given truth:number within unit"),
    # plots
    "use_style": (lambda: _in_context(plots.use_style), ""),
    "show": (plots.show, "figure alt"),
    "label_ends": (plots.label_ends, "ax gap"),
    "image": (plots.image, "ax x:image title"),
    "image_grid": (plots.image_grid, "ax images:drawn columns title pad"),
    "level_sets": (plots.level_sets, "ax mean covariance radii"),
    "perturbations": (plots.perturbations, "ax x:plane radius steps:arrows"),
    "plane": (plots.plane, "ax mean covariance x:plane radius steps:arrows half_width"),
    "legend_above": (plots.legend_above, "ax"),
    "drop_by_angle": (plots.drop_by_angle, "ax degrees:line drop"),
    "secular": (plots.secular, "ax eta length radius poles roots colors"),
    "curves": (plots.curves, "ax x:line lines xlabel ylabel log"),
    "signed": (plots.signed, "x scale:drawn"),
    "histogram": (plots.histogram, "ax values mark xlabel"),
    "gaps": (plots.gaps, "ax groups:gaps floor"),
    "thermometer": (widgets.thermometer, "ax value landmarks top"),
    "cloud": (plots.cloud, "ax points color"),
    "bars_and_theory": (plots.bars_and_theory, "ax labels parts:bars theory ylabel"),
    "water": (plots.water, "ax before after"),
    "before_after": (plots.before_after, "ax groups:values log:flag"),
    "attacked_rows": (plots.attacked_rows, "axes rows:images values:images columns"),
    "nll_against_eps": (plots.nll_against_eps, "ax eps:line lines:styled floor:line"),
    "stacked_bars": (plots.stacked_bars, "ax labels parts:bars ylabel"),
    "overlaid": (plots.overlaid, "ax groups:drawn xlabel bins"),
    "by_round": (plots.by_round, "ax lines:styled ylabel log:flag"),
    "exchange": (plots.exchange, "ax frontier"),
    "rounds_needed": (plots.rounds_needed, "ax x:line lines:styled xlabel"),
    "strips": (plots.strips, "ax x:line density edges"),
    "lines_in_plane": (plots.lines_in_plane, "ax lines:plane"),
    "density": (plots.density, "ax x1 x2 values:plane"),
    "field": (plots.field, "ax points steps:points color"),
    # widgets
    "attack_explorer": (widgets.attack_explorer, "grid"),
    "stored_attacks": (widgets.stored_attacks, "path"),
    "stored_recipe": (widgets.stored_recipe, "path"),
    "draw_attack": (widgets.draw_attack, "figure grid photograph eps:shown change model:shown"),
    "layer_explorer": (widgets.layer_explorer, "flow:deep x:one attacked"),
    "layer_walk": (widgets.layer_walk, "flow:deep x:one attacked"),
    "tiled": (widgets.tiled, "ax h scale:drawn title"),
    "drift": (widgets.drift, "ax levels:layers distance chosen"),
    "draw_layer": (widgets.draw_layer, "figure walk layer"),
}

RESULT = "holds results; the function that makes it is a target"
LAYER = "a part of a flow, whose log_prob, encode and decode check what comes in, and are targets"
# Public callables that the fuzzer leaves out, each with the reason.
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        "Attack Universal Anatomy Certificate Crop Invertibility LinfPerturbation ParetoPoint "
        "Perturbation TradeOff History LayerWalk Row Iterations Figure".split(),
        RESULT,
    ),
    **dict.fromkeys(
        "AffineCoupling Bijection Chain MaskedCoupling MultiScale Squeeze".split(), LAYER
    ),
    **dict.fromkeys("Ball Objective".split(), "an alias of types"),
    **dict.fromkeys("CheckFailed TrainingDiverged".split(), "an error"),
    **dict.fromkeys("Fresh PerImage".split(), "takes nothing, and is a value of memory"),
    "Flow": "built by glow, realnvp and plane_flow; its methods are targets",
    "Prediction": "made by predict",
    "Sharded": "made by sharded",
    "Explorer": "made by the explorers; its arguments are a front end's sliders",
    "worst_case_explorer": "takes nothing; tests/test_widgets.py moves its sliders",
    "trade_off_explorer": "takes nothing; tests/test_widgets.py moves its sliders",
    "device": "takes nothing; reads the environment (tests/test_packaging.py)",
    "join": "takes nothing; starts processes (tests/test_distributed.py)",
}


# Lookups that may fail otherwise than by a ValueError, as their documentation says.
DOCUMENTED: dict[str, tuple[type[Exception], ...]] = {
    "load": (IndexError,),
    "outcome": (LookupError,),
}


def _in_context(change: Callable[[], None]) -> None:
    """Call what changes matplotlib's settings, and put them back."""
    import matplotlib as mpl

    with mpl.rc_context():
        change()


def public_callables() -> dict[str, Any]:
    """Every public callable by name: of ``__all__``, or defined in a module without one."""
    found: dict[str, Any] = {}
    for module in (flowrob, *(importlib.import_module(f"flowrob.{m}") for m in flowrob._MODULES)):
        names = getattr(module, "__all__", None) or [
            name for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        ]  # fmt: skip
        for name in names:
            value = getattr(module, name)
            if callable(value) or name in LEFT_OUT:
                found[name] = value
    return found


def test_every_public_callable_is_fuzzed_or_left_out_for_a_reason():
    public = public_callables()
    assert len(public) > 100
    forgotten = public.keys() - TARGETS.keys() - LEFT_OUT.keys()
    assert not forgotten, f"neither in TARGETS nor in LEFT_OUT: {sorted(forgotten)}"
    assert not LEFT_OUT.keys() - public.keys(), "left out, but no longer public"
    assert not LEFT_OUT.keys() & TARGETS.keys()
    assert all(len(reason.split()) > 1 for reason in LEFT_OUT.values())


def frozen_state(value: Any) -> Any:
    """A copy that shows whether ``value``, or a number inside it, was changed; else None."""
    if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
        return (value.detach().clone(), value.requires_grad, value.grad)
    if isinstance(value, list | tuple):
        return [frozen_state(part) for part in value]
    if isinstance(value, dict):
        return {name: frozen_state(part) for name, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.copy()
    if isinstance(value, torch.nn.Module):
        return frozen_state({**value.state_dict()})
    return None


def same(value: Any, before: Any) -> bool:
    """Whether it is as it was."""
    if before is None:
        return True
    if isinstance(value, torch.nn.Module):
        return same({**value.state_dict()}, before)
    if isinstance(before, list):
        return len(value) == len(before) and all(map(same, value, before))
    if isinstance(before, dict):
        return [*value] == [*before] and all(same(value[name], before[name]) for name in before)
    if isinstance(before, np.ndarray):
        return np.array_equal(value, before, equal_nan=True)
    kept, requires_grad, grad = before
    equal = torch.equal(value.detach().nan_to_num(7.0), kept.nan_to_num(7.0))
    return equal and value.requires_grad == requires_grad and value.grad is grad


def model_state() -> list[Any]:
    """Weights, buffers, gradients and modes of the shared model; the global generator."""
    tensors = [value.clone() for value in FLOW.state_dict().values()]
    flags = [(p.requires_grad, p.grad is None) for p in FLOW.parameters()]
    return [*tensors, torch.get_rng_state(), flags, [m.training for m in FLOW.modules()]]


@pytest.mark.parametrize("inside", [lambda x: x, lambda x: [x], lambda x: {"a": (x, x)}])
@pytest.mark.parametrize("number", [np.zeros(2), torch.zeros(2)])
def test_a_change_of_an_input_is_seen_wherever_it_lies(inside, number):
    number = copy.deepcopy(number)
    before = frozen_state(inside(number))
    assert same(inside(number), before)
    number += 1
    assert not same(inside(number), before)


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


def is_the_callers(error: Exception, spoiled: list[Any]) -> bool:
    """Whether an error was raised inside one of the functions that the caller wrote."""
    written = {getattr(value, "__code__", None) for value in spoiled} - {None}
    return any(frame.f_code in written for frame, _ in traceback.walk_tb(error.__traceback__))


def test_an_error_inside_a_function_of_the_caller_is_its_own():
    def shares(k):
        return k.shares

    with pytest.raises(AttributeError) as handed_on:
        linear.universal_training(GAUSSIAN, 0.1, 2, damping=shares)
    assert is_the_callers(handed_on.value, [None, shares])
    assert not is_the_callers(handed_on.value, [quadratic, 0.5])
    with pytest.raises(TypeError, match="damping must be real") as ours:  # what it returns is not
        linear.universal_training(GAUSSIAN, 0.1, 2, damping=lambda k: None)
    assert not is_the_callers(ours.value, [shares])


@pytest.mark.parametrize("target", TARGETS)
def test_any_call_gives_an_answer_or_names_the_argument(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a spoiled path may be one that can be written
    function, told = TARGETS[target]
    drawn_from = {word.split(":")[0]: KNOWN[word] for word in told.split()}
    names = [*drawn_from]
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
        makers = {name: call.draw(drawn_from[name], label=name) for name in names}
        some = st.lists(st.sampled_from(names), max_size=2, unique=True) if names else st.just([])
        spoiled = call.draw(some)
        for name in spoiled:
            makers[name] = call.draw(SPOILED, label=f"spoiled {name}")
        given_values = {name: make() for name, make in makers.items()}
        before, copies = model_state(), {n: frozen_state(v) for n, v in given_values.items()}
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("default")  # shown at the end, and no failure here
            try:
                function(**given_values)
            except (lessons.CheckFailed, SystemExit):  # what check, and a command line, are for
                pass
            except Exception as error:
                allowed = (ValueError, TypeError, OSError, *DOCUMENTED.get(target, ()))
                if not is_the_callers(error, [given_values[name] for name in spoiled]):
                    assert isinstance(error, allowed), f"{target}: raw {error!r}"
                    named = names_an_argument(error, given_values)
                    assert named, f"{target}: {error!r} names no argument"
        assert all(same(given_values[name], copies[name]) for name in names), "an input changed"
        assert unchanged(before), "the model or the global generator changed"

    run()


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: paper.table_1(np.zeros((3, 4))), TypeError, "training must be str"),
        (lambda: records.installed(""), ValueError, "package must be"),
        (lambda: records.read_tensors("", "a", []), ValueError, "path '' is no regular file"),
        (lambda: records.command_line("a", torch.zeros(3)), ValueError, "argv must be words"),
        (lambda: flows.checkerboard(-1, 2), ValueError, "height must be at least 1"),
        (lambda: flows.conv_net(1, 2, -1, seeded()), ValueError, "width must be at least 1"),
        (lambda: flows.mlp(1, 0, 2, seeded()), ValueError, "n_out must be at least 1"),
        (lambda: flows.ZeroConv2d(0, 1), ValueError, "in_channels must be at least 1"),
        (lambda: flows.FlowMixture([FLOW]).sample(-1, seeded()), ValueError, "num_samples must be"),
        (lambda: flows.import_state_dict(X, "y0ast", (1, 4, 4)), TypeError, "state_dict must be"),
        (lambda: flows.import_state_dict({}, "y0ast", (1, 4)), ValueError, "image_shape must be"),
        (lambda: linear.trade_off(GAUSSIAN, GAUSSIAN, 1.0, num_samples=0), ValueError,
         "num_samples must be"),
        (lambda: linear.variance_growth(X, X, 2), ValueError, "sigma must be one positive number"),
        (lambda: linear.water_filling([1.0], 1e300), ValueError, "radius must be"),
        (lambda: linear.universal_training(GAUSSIAN, 0.1, 2, damping=lambda k: None), TypeError,
         "damping must be real"),
        (lambda: linear.universal_training(GAUSSIAN, 0.1, -1, "minimax"), ValueError, "rounds"),
        (lambda: evaluation.mixture(quadratic)(X > 0.5), TypeError, "x must be a floating-point"),
        (lambda: evaluation.mixture(lambda y: y)(X), ValueError, "the objective must return"),
        (lambda: evaluation.mixture(torch.nn.Module), TypeError, "log_prob.* must be callable"),
        (lambda: evaluation.uniform(torch.zeros(3)), ValueError, "x must be of shape"),
        (lambda: evaluation.typicality(quadratic, 0.0)(None), TypeError, "x: expected a tensor"),
        (lambda: evaluation.schedules([0]), ValueError, "steps must be at least 1"),
        (lambda: evaluation.schedules([]), ValueError, "steps must be at least one"),
        (lambda: evaluation.schedules([3], auto=-1), ValueError, "auto must be at least 0"),
        (lambda: evaluation.strongest_table(quadratic, X[0, 0], [1], generator=seeded()),
         TypeError, "images must be a uint8 tensor"),
        (lambda: evaluation.order_statistic(0.5, -1, 0.9), ValueError, "num_samples must be"),
        (lambda: training.Muon([torch.zeros(2)], lr=-1.0), ValueError, "lr must be"),
        (lambda: training.Muon([]), ValueError, "params must be"),
        (lambda: lessons.rounded(1.0, 0), ValueError, "digits must be"),
        (lambda: lessons.check("it is {}", None, at_least=0), TypeError, "value must be a number"),
        (lambda: lessons.grade(1.0, 1.0, within=X), TypeError, "within must be float"),
        (lambda: lessons.predict("a", "b?", options=[X, X[:1]]), ValueError, "options must be"),
        (lambda: data.load("photos", indices=X.to("meta")), TypeError, "indices must be"),
        (lambda: data.load("photos", indices=math.nan), ValueError, "indices must hold numbers"),
        (lambda: data.load("photos", indices=[0.5]), IndexError, "indices=.0.5. arrays used as"),
        (lambda: data.load("photos", indices=[10**6]), IndexError, "indices=.1000000. index"),
        (lambda: data.load("photos", indices=slice("a")), TypeError, "indices=slice"),
        (lambda: data.load("photos", indices=slice(0, 2, 0)), ValueError, "indices=slice"),
        (lambda: evaluation.complexity_corrected(X[0, :3], X[0, 0]), TypeError, "images must be"),
        (lambda: evaluation.rebased(FLOW, degrees=5e-324), ValueError, "degrees positive"),
        (lambda: linear.worst_case_linf(GAUSSIAN, X, 1e300), ValueError, "radius must be less"),
        (lambda: attacks.LinfBall(True), TypeError, "radius must be a number or a tensor"),
        (lambda: flows.glow((1, 4, 4), 1, 1, 4, generator=0), TypeError, "generator must be"),
        (lambda: evaluation.pipe_table(["a"], torch.zeros(3)), TypeError, "head and lines must"),
        (lambda: linear.linf_bound(GAUSSIAN, X, 1e300), ValueError, "radius must be"),
        (lambda: linear.sensitivity(np.ones(2), np.ones(3), 1.0, 2), ValueError, "v and eps must"),
    ],
)  # fmt: skip
def test_what_the_fuzzer_found_stays_mended(call, error, named):
    with pytest.raises(error, match=named):
        call()
