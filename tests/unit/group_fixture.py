"""Groups of real processes on gloo, which train small networks together."""

import multiprocessing
import os
import pickle
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from coopnet.files.errors import TrainingFailed
from coopnet.networks.loss import Teaching
from coopnet.networks.transfer import TrainedNetwork
from coopnet.training import group as groups
from coopnet.training.batchnorm import share_statistics
from coopnet.training.engine import Meters, make_deterministic, train_step
from coopnet.training.group import Group
from coopnet.training.optimizer import Optimizer
from coopnet.training.trainer import Interrupted, train
from training_fixture import CPU, Ram, Silence, never, result, settings, split, task

CONTEXT = multiprocessing.get_context("forkserver")  # one that never ran a step, so that its copies may
CONTEXT.set_forkserver_preload(["coopnet.runs.job", "coopnet.networks.transfer"])


class Failure(str):
    """What went wrong in a process."""


Job = Callable[[Group], Any]


def together(size: int, job: Job) -> list[Any]:
    """What a job gives in each of some processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers: Any = CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_work, args=(rank, size, port, job, answers)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        found = {rank: pickle.loads(answer) for rank, answer in (answers.get(timeout=120) for _ in processes)}
        assert not (failed := [str(one) for one in found.values() if isinstance(one, Failure)]), failed[0]
    except queue.Empty:
        raise AssertionError(f"no answer; exit codes {[process.exitcode for process in processes]}") from None
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [found[rank] for rank in range(size)]


def _work(rank: int, size: int, port: int, job: Job, answers: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    make_deterministic(1)
    try:
        answer = job(groups.join("cpu"))
    except Exception:
        answer = Failure(traceback.format_exc())
    answers.put((rank, pickle.dumps(answer)))  # pickled here, since torch would send handles that die with the process


# Jobs, which are imported by the processes


def normalised(group: Group) -> list[dict[str, Any]]:
    """BatchNorm in float64 on this process's share of batches of 2 and 7 values, and what it learns from them."""
    found = []
    for shape in ((7, 3, 4, 4), (7, 3), (2, 3, 2, 2), (2, 3)):
        generator = torch.Generator().manual_seed(len(shape))
        x, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        norm: Any = torch.nn.BatchNorm1d(3) if len(shape) == 2 else torch.nn.BatchNorm2d(3)
        norm.double()
        torch.nn.init.normal_(norm.weight, generator=generator)
        if group.size > 1:
            share_statistics(norm, group)
        part = group.share(len(x))
        mine = (5 + 3 * x[part]).requires_grad_()
        said = norm(mine)
        (weights[part] * said.tanh()).sum().backward()
        group.sum_together([norm.weight.grad, norm.bias.grad])
        found.append(
            {
                "said": said.detach(),
                "gradient": mine.grad,
                "weight": norm.weight.grad,
                "bias": norm.bias.grad,
                "running_mean": norm.running_mean,
                "running_var": norm.running_var,
                "batches": norm.num_batches_tracked,
                "eval": norm.eval()(mine).detach(),
            }
        )
    return found


def steps(group: Group) -> dict[str, Any]:
    """One step on batches that shares do not divide, one with more processes than images among them."""
    return {f"{kind} {images}": step(group, kind, images) for kind in ("gated", "taught") for images in (13, 2)}


def step(group: Group, kind: str, images: int) -> dict[str, Any]:
    """Gradients, weights, statistics, loss and meters after one step."""
    distillation = {"kind": "knowledge"} if kind == "taught" else {"kind": "on_the_fly"}
    job = task(settings(distillation=distillation), start="taught" if kind == "taught" else "random")
    network = job.initial.network
    if group.size > 1:
        share_statistics(network, group)
    optimizer = Optimizer(network, job.training.optimizer, {})
    network.train()
    if job.teacher is not None:
        job.teacher.eval()
    meters, batch = Meters(network.architecture.branches, CPU), split(images, 7)
    part = torch.arange(images)[group.share(images)]
    teaching = Teaching(distillation["kind"], kind == "gated", 3.0, 0.7)
    shared = {} if group.size == 1 else {"group": group, "portion": len(part) / images}
    loss = train_step(
        network, optimizer, batch.plain(part), batch.labels[part], teaching, "fp32", meters, job.teacher, **shared
    )
    tensors = {f"gradient/{name}": p.grad for name, p in network.named_parameters()}
    return tensors | dict(network.state_dict()) | {"loss": loss, "meters": meters.sums}


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "masked": ("masked", {"selection": "best_validation"}),
    "ratio": (
        "random",
        # A rate at which rounding is not blown up: factors divide by gradients that may be next to nothing.
        {
            "optimizer": {"kind": "adam", "lr": 1e-4},
            "schedule": {"gradient_ratio": {"every": 2, "smoothing": 0.5, "highest": 2}},
        },
    ),
}


def trained(group: Group, name: str, epochs: int = 3) -> dict[str, Any]:
    """A short training on 70 images in batches of 16."""
    start, changes = CHANGES[name]
    return result(train(task(settings(epochs=epochs, **changes), start=start), Ram(), Silence(), never, group))


def trainings(group: Group) -> dict[str, Any]:
    """Short trainings, the first one twice, and once stopped by the last process after every step."""
    made = {name: trained(group, name) for name in CHANGES}
    return made | {"again": trained(group, "masked"), "interrupted": interrupted(group, "masked")}


def interrupted(group: Group, name: str) -> dict[str, Any]:
    """The same, stopped and continued after every single step, for a reason that one process has."""
    start, changes = CHANGES[name]
    memory, reason = Ram(), int(group.rank == group.size - 1)
    for _ in range(100):
        try:
            job = task(settings(**changes), start=start)
            return result(train(job, memory, Silence(), lambda: "now" if group.highest(reason) else None, group))
        except Interrupted:
            pass
    raise AssertionError("it never came to an end")


def diverged(group: Group) -> str:
    """What a process says after the weights of the last one alone were spoilt."""
    job = task(settings())
    if group.rank == group.size - 1:

        class Spoiler(Silence):
            def advance(self, images: int) -> None:
                job.initial.network.branches[0].classifier.bias.data[0] = torch.nan  # type: ignore[operator,union-attr]

        progress: Silence = Spoiler()
    else:
        progress = Silence()
    try:
        train(job, Ram(), progress, never, group)
    except TrainingFailed as error:
        return str(error)
    return "nothing"


def started_apart(group: Group) -> dict[str, Any]:
    """A training whose first weights differ from process to process, as those of surgery on unlike machines may."""
    job = task(settings(epochs=1))
    with torch.no_grad():
        job.initial.network.branches[0].classifier.bias += group.rank  # type: ignore[operator,union-attr]
    momentum = {n: torch.full_like(p, group.rank) for n, p in job.initial.network.named_parameters()}
    job.initial = TrainedNetwork(job.initial.network, {"momentum_buffer": momentum})
    return result(train(job, Ram(), Silence(), never, group))


def abandoned(group: Group) -> str:
    """What the others hear when the last process is gone."""
    if group.rank == group.size - 1:
        return "gone"
    try:
        while True:
            group.sum_(torch.ones(3))
    except groups.ProcessLost as error:
        return str(error)
