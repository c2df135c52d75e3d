"""Several processes do what one does: the same losses, weights and tables."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from flowrob.attacks import LinfBall, lower_likelihood
from flowrob.data import load
from flowrob.distributed import Group, Sharded, sharded
from flowrob.evaluation import robustness_table
from flowrob.flows import glow
from flowrob.training import (
    Checkpoint,
    Loss,
    PerImage,
    Pool,
    Update,
    Validation,
    checkpoints,
    fit,
)

SMALL = {"image_shape": (3, 8, 8), "num_levels": 1, "num_steps": 2, "width": 8}
NAMES = ("clean", "hybrid", "visits")


def runs(images, folder):
    """name -> arguments of fit; odd batches, so that the processes' parts differ."""
    reused = Loss.of("hybrid", share=0.3, random_eps=1.0, attack_steps=2, memory=PerImage())
    visited = Loss.of("hybrid", share=0.3, random_eps=0.5, attack_steps=2, memory=Pool(2))
    path = {name: folder / f"{name}.safetensors.run" for name in NAMES}
    shared = {"batch_size": 9, "update": Update(warmup_steps=2)}
    return {
        "clean": {"loss": "clean", "num_steps": 6, "checkpoint": path["clean"], **shared},
        "hybrid": {
            "loss": reused,
            "num_steps": 8,
            "checkpoint": Checkpoint(path["hybrid"], every=3),
            "validation": Validation(images[:7], every=4, keep_best=True),
            **shared,
        },
        "visits": {"loss": visited, "num_steps": 7, "checkpoint": path["visits"], **shared},
    }


WORKER = """
import json, sys
import torch
from pathlib import Path
from safetensors.torch import save_file
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from test_distributed import run_all
folder = Path({folder!r})
from flowrob.distributed import join
results, tensors = run_all(folder)
rank = join().rank
(folder / f"{{rank}}.json").write_text(json.dumps(results))
save_file(tensors, folder / f"{{rank}}.safetensors")
"""


def run_all(folder):
    """Histories, a table and an attack as plain data, and the trained weights."""
    from flowrob.distributed import join

    images = load("photos", size=8, limit=40)
    results, tensors = {}, {}
    for name, settings in runs(images, folder).items():
        flow = glow(**SMALL).double()
        history = fit(flow, images, progress=name == "clean", **settings)
        results[name] = [history.loss, history.validation]
        tensors |= {f"{name}.{k}": v.contiguous() for k, v in flow.state_dict().items()}
    group = join()
    generator = torch.Generator().manual_seed(3)
    table = robustness_table(
        Sharded(lambda x: flow.log_prob(x.double()), group),
        images[:5],
        (0, 4),
        generator=generator,
        batch_size=2,  # the last image is one process's alone
        num_resamples=10,
        attack_options={"num_steps": 3, "restarts": 2},
    )
    results["table"] = [row["mean"] for row in table.rows]
    results["group"] = [group.size, group.any(group.rank == 1, torch.device("cpu"))]
    return results, tensors


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Where two processes left what they computed, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "worker.py"
    tests = os.path.dirname(__file__)
    script.write_text(textwrap.dedent(WORKER.format(tests=tests, folder=str(folder))))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLOWROB_DEVICE": "cpu"}
    done = subprocess.run(
        [*launch, str(script)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stderr


def test_two_processes_do_what_one_does(two, tmp_path):
    folder, _ = two
    results, tensors = run_all(tmp_path)
    both = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    weights = [load_file(folder / f"{rank}.safetensors") for rank in (0, 1)]
    assert both[0] == both[1] and both[0].pop("group") == [2, True]
    assert results.pop("group") == [1, False]
    for name in NAMES:
        for ours, theirs in zip(results[name], both[0][name], strict=True):
            assert torch.tensor(theirs).allclose(torch.tensor(ours), rtol=1e-9, atol=0)
    assert both[0]["table"] == pytest.approx(results["table"], rel=1e-9)
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    for key, value in tensors.items():
        assert torch.allclose(weights[0][key], value, rtol=1e-6, atol=1e-9), key


def test_one_process_writes_the_checkpoint_and_shows_the_progress(two):
    folder, printed = two
    assert printed.count("clean:   0%") == 1
    assert not list(folder.glob("*.partial"))
    metadata, tensors = checkpoints.read(folder / "hybrid.safetensors.run")
    assert metadata["step"] == "8"
    touched = tensors["perturbations"].flatten(1).abs().amax(1) > 0
    assert touched.sum() > 12  # of both processes' images


def test_a_run_of_two_processes_goes_on_in_one(two):
    folder, _ = two
    images, flow = load("photos", size=8, limit=40), glow(**SMALL).double()
    history = fit(flow, images, progress=False, **runs(images, folder)["hybrid"])
    assert history.loss == json.loads((folder / "0.json").read_text())["hybrid"][0]
    stored = load_file(folder / "0.safetensors")
    assert all(torch.equal(v, stored[f"hybrid.{k}"]) for k, v in flow.state_dict().items())


@pytest.mark.parametrize("size, num_rows", [(1, 4), (2, 5), (3, 2)])
def test_every_row_is_somebody_s(size, num_rows):
    rows = [i for rank in range(size) for i in range(num_rows)[Group(rank, size).rows(num_rows)]]
    assert sorted(rows) == list(range(num_rows))


def test_a_sharded_density_is_the_density_with_its_gradient_in_x(generator):
    flow = glow(**SMALL).double()
    x = torch.rand(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    flow.initialize(x)
    shared = Sharded(flow.log_prob, Group())
    assert torch.equal(shared(x), flow.log_prob(x))
    weight = torch.arange(1.0, 7.0, dtype=torch.float64)
    gradients = []
    for log_prob in (flow.log_prob, shared):
        y = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad((weight * log_prob(y)).sum(), y)[0])
    assert torch.allclose(*gradients, rtol=1e-10)
    found = [lower_likelihood(f, x, LinfBall(0.01), num_steps=3).value for f in (shared, flow)]
    assert found[0].allclose(found[1], rtol=1e-10)


def test_one_process_alone_shares_nothing_out(flow):
    assert sharded(flow.log_prob, Group()) == flow.log_prob
    two = sharded(flow.log_prob, Group(1, 2))
    assert two == Sharded(flow.log_prob, Group(1, 2))
    assert two.over(lambda part: flow) == Sharded(flow, Group(1, 2))
