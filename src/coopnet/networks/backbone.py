"""Any traceable network as trunk and branches: the part before a split is the trunk, the part after it a branch.

A model is traced with `torch.fx`. Only the modules that contain the split are traced through. Every other module stays
a single node, so dropout, BatchNorm and control flow inside it behave as in the model. Names are those of
`model.named_modules()`, which are also the names of `torchvision.models.feature_extraction`.
"""

import contextlib
import copy
import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from coopnet.files.errors import CoopNetError
from coopnet.networks.network import CooperativeNetwork, build, initialise_convolutions, usual_defaults

LIBRARIES = ("timm", "torchvision")
OWN = "module"
"""The family of a model that was passed as an object; only the user's own code can build it again."""

CONSTANT = "_tensor_constant"
"""What torch.fx calls a tensor that the forward of a model makes, with a number."""
LISTED = 24  # splits that an error message lists
SIZES = (224, 32)  # image sizes to try on a model that does not declare its input size


class _NoCut(Exception):
    """A model cannot be cut there; the message gives the reason."""


@dataclass(frozen=True)
class Template:
    """The two pieces of a model after a cut.

    Attributes:
        trunk: images → features.
        branch: features → logits [N, C], with the weights of the model.
        channels: of the features.
        over: dimensions of the features that the gate averages over: (2, 3) of [N, C, H, W], (1,) of tokens [N, T, C],
            (1, 2) of [N, H, W, C], none of [N, C].
        classifier: name, within the branch, of the layer that computes the logits.
        replaced: whether that layer is a new one, because the model had another number of classes.
        fresh: builds the whole model again, with fresh weights; None if that is unknown.
    """

    trunk: nn.Module
    branch: nn.Module
    channels: int
    over: tuple[int, ...]
    classifier: str
    replaced: bool = False
    fresh: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Backbone:
    """Everything needed to build a cooperative network from a model: the counterpart of `Architecture`.

    Attributes:
        family: `timm` or `torchvision`; `module` for a model that was passed as an object.
        name: of the model in its library; the name of its class for a `module`.
        split: name of the module at which the branches begin.
        branches: number of branches B.
        gate: `learned`; `mean`: all branches have equal weight; `none` for a single branch.
        classes: number of classes C.
        trunk: `shared` by all branches, or `own`: each branch has its own, and the gate reads all of them.
        input: shape of one image, channels first.
        template: the two pieces; it does not count when two backbones are compared.
    """

    family: str
    name: str
    split: str
    branches: int
    gate: str
    classes: int
    trunk: str = "shared"
    input: tuple[int, ...] = (3, 224, 224)
    template: Template = field(kw_only=True, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = ("family", "name", "split", "branches", "gate", "classes", "trunk")
        return {name: getattr(self, name) for name in names} | {"input": list(self.input)}

    @property
    def trunk_channels(self) -> int:
        """Channels of a trunk's features."""
        return self.template.channels

    @property
    def averaged(self) -> tuple[int, ...]:
        """Dimensions of the features that the gate averages over."""
        return self.template.over

    @property
    def classifier(self) -> str:
        """Name, within a branch, of the layer that computes the logits."""
        return self.template.classifier

    def new_trunk(self) -> nn.Module:
        """A trunk with fresh weights."""
        return self._renewed(self.template.trunk)

    def new_branch(self) -> nn.Module:
        """A branch with fresh weights."""
        return self._renewed(self.template.branch)

    def initialise(self, network: nn.Module) -> None:
        """Do nothing: the pieces already have their fresh weights."""

    def readers(self, branch: nn.Module) -> list[str]:
        """Names, within a branch, of the convolutions that read the trunk.

        Raises:
            ValueError: anything other than a plain convolution without bias reads it.
        """
        return list(_readers(branch))

    def copies(self) -> CooperativeNetwork:
        """A network with the weights of the template in trunk and branches, to be filled with other weights."""
        state = self.template.trunk.state_dict(keep_vars=True) | self.template.branch.state_dict(keep_vars=True)
        whole = SimpleNamespace(state_dict=lambda keep_vars: state)
        network = build(replace(self, template=replace(self.template, fresh=lambda: whole)), seed=0)
        network.architecture = self
        return network

    def _renewed(self, piece: nn.Module) -> nn.Module:
        """A copy with fresh weights: those of a new model, or of the layers' own initialisation.

        Without a new model, parameters of modules without `reset_parameters` keep the model's values.
        """
        renewed = copy.deepcopy(piece)
        if self.template.fresh is not None:
            state = self.template.fresh().state_dict(keep_vars=True)
            renewed.load_state_dict({name: state.get(name, own) for name, own in renewed.state_dict().items()})
            for name, parameter in renewed.named_parameters():
                parameter.requires_grad_(state[name].requires_grad)
            return renewed
        for module in renewed.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
                for parameter in module.parameters(recurse=False):  # they may be frozen in the model
                    parameter.requires_grad_(True)
        initialise_convolutions(renewed)
        return renewed


# From a model --------------------------------------------------------------------------------------------------------


def module_backbone(
    model: nn.Module,
    split: str,
    *,
    branches: int,
    classes: int,
    gate: str = "learned",
    example: Tensor | None = None,
    fresh: Callable[[], nn.Module] | None = None,
) -> Backbone:
    """The architecture of a cooperative network from a model, which is not changed; `network.build` builds it.

    Raises:
        CoopNetError: as for `coopnet.wrap`.
    """
    return _backbone(model, OWN, _class_name(model), split, branches, gate, classes, "shared", example, fresh=fresh)


def _class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def library_backbone(
    family: str,
    name: str,
    split: str,
    *,
    branches: int,
    classes: int,
    gate: str = "learned",
    trunk: str = "shared",
    size: int | None = None,
    example: Tensor | None = None,
    pretrained: bool = False,
) -> Backbone:
    """The architecture of a cooperative network from a library's model; `network.build` builds it.

    Args:
        family: `timm` or `torchvision`.
        name: of the model there.
        split: name of the module at which the branches begin.
        branches: number of branches B.
        classes: number of classes C.
        gate: `learned`, `mean` or `none`.
        trunk: `shared` or `own`.
        size: height and width of the images, which have three channels; by default as the model declares.
        example: a batch of images, instead of `size`.
        pretrained: whether the template has the pretrained weights; a network built from it has fresh ones.

    Raises:
        CoopNetError: as for `coopnet.wrap`.
    """
    model = library_model(family, name, classes, pretrained=pretrained)
    if example is None and size is not None:
        example = _zeros(model, (3, size, size))
    return _backbone(
        model,
        family,
        name,
        split,
        branches,
        gate,
        classes,
        trunk,
        example,
        fresh=functools.partial(library_model, family, name, classes),
    )


def library_model(family: str, name: str, classes: int, *, pretrained: bool = False) -> nn.Module:
    """A model of timm or torchvision with `classes` outputs.

    Raises:
        CoopNetError: the library is not installed, or has no such model.
    """
    try:
        if family == "timm":
            import timm

            known, create = timm.list_models, timm.create_model
            options: dict[str, Any] = {"num_classes": classes, "pretrained": pretrained}
        elif family == "torchvision":
            from torchvision import models

            # The submodules have detectors, and models of video and optical flow.
            known, create = functools.partial(models.list_models, models), models.get_model
            options = {"num_classes": classes} if not pretrained else {"weights": "DEFAULT"}
        else:
            raise CoopNetError(f"family {family!r} is no library of models; choose {' or '.join(LIBRARIES)}")
    except ModuleNotFoundError as error:
        raise CoopNetError(
            f"{family} is not installed, but {name} is one of its models; pip install '.[timm]' in a clone brings it"
        ) from error
    names = known()
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, 3, 0.5)) or f"one of its {len(names)} models"
        raise CoopNetError(f"{family} has no model {name!r}; did you mean {near}?")
    with usual_defaults():
        model: nn.Module = create(name, **options)
    return model


def backbone_from_dict(facts: dict[str, Any], model: nn.Module | None = None) -> Backbone:
    """The architecture from the result of `Backbone.to_dict`.

    Args:
        facts: its plain values.
        model: the model itself, for the family `module`; its weights do not matter.

    Raises:
        CoopNetError: the model is needed and was not passed, or is a different one.
        KeyError, TypeError: values are missing or of another type.
    """
    family, name, size = str(facts["family"]), str(facts["name"]), tuple(int(number) for number in facts["input"])
    rest = (facts["split"], facts["branches"], facts["gate"], facts["classes"], facts["trunk"])
    fresh: Callable[[], nn.Module] | None = None
    if family == OWN:
        if model is None:
            raise CoopNetError(
                f"the network was wrapped around a {name}, which only its own code can build; "
                "load it in Python with coopnet.load(folder, model=...)"
            )
        # Its module may have another name now: that of a script is __main__ only while the script runs.
        if not f".{name}".endswith(f".{type(model).__qualname__}"):
            raise CoopNetError(
                f"the network was wrapped around a {name}, not a {_class_name(model)}; pass such a model"
            )
    else:
        classes = facts["classes"]
        model = library_model(family, name, classes)
        fresh = functools.partial(library_model, family, name, classes)
    return _backbone(model, family, name, *rest, example=_zeros(model, size), fresh=fresh)


def _backbone(
    model: nn.Module,
    family: str,
    name: str,
    split: str,
    branches: int,
    gate: str,
    classes: int,
    trunk: str,
    example: Tensor | None,
    *,
    fresh: Callable[[], nn.Module] | None = None,
) -> Backbone:
    """Cut a model and describe the resulting network."""
    if gate not in ("learned", "mean", "none") or (gate == "none" and branches > 1):
        raise CoopNetError(f"gate {gate!r} does not go with {branches} branches; choose learned or mean")
    model = copy.deepcopy(model)
    if not isinstance(split, str) or split not in dict(model.named_modules()) or not split:
        raise CoopNetError(f"{name} has no module {split!r} to split at; {_advice(model)}")
    example = _example(model, name) if example is None else example
    logits = _logits(model, name, example)
    try:
        first, second = cut(model, split)
        template = _probe(first, second, logits, classes, example, fresh)
        for piece in (template.trunk, template.branch) if not logits.is_meta else ():
            piece.cpu()  # a device draws other fresh weights, and from a generator of its own
    except _NoCut as reason:
        raise CoopNetError(f"{name} cannot be split at {split!r}: {reason}; {_advice(model, split)}") from reason
    size = tuple(example.shape[1:])
    return Backbone(family, name, split, branches, gate, classes, trunk, size, template=template)


def _zeros(model: nn.Module, size: Sequence[int]) -> Tensor:
    """A batch of two zero images, with the device and type of the model's weights."""
    like = next(model.parameters(), torch.zeros(()))
    return torch.zeros(2, *size, device=like.device, dtype=like.dtype)


def _example(model: nn.Module, name: str) -> Tensor:
    """Images that the model accepts."""
    known = getattr(model, "default_cfg", {}).get("input_size") or getattr(model, "image_size", None)
    if isinstance(known, int):
        known = (3, known, known)
    if known:
        return _zeros(model, tuple(known))
    for size in SIZES:
        images, reason = _zeros(model, (3, size, size)), ""
        try:
            with _evaluating(model):
                model(images)
        except Exception as error:  # any model, any error
            reason = _first_line(error)
            continue
        return images
    raise CoopNetError(
        f"{name} takes no images of {' or '.join(f'3×{size}×{size}' for size in SIZES)} ({reason}); "
        "pass example=, a batch of images as it takes them"
    )


def _logits(model: nn.Module, name: str, example: Tensor) -> Tensor:
    """The logits [N, classes] of a model for an example.

    Raises:
        CoopNetError: there are none, or others each time, so that no split of the model would work.
    """
    try:
        with _evaluating(model):
            logits, again = model(example), model(example)
    except Exception as error:  # any model, any error
        raise CoopNetError(
            f"{name} does not take images of {list(example.shape)[1:]} ({_first_line(error)}); "
            "pass example=, a batch of images as it takes them"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(example):
        given = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise CoopNetError(f"{name} gives {given} for {len(example)} images, where logits [N, classes] are needed")
    if not _same(logits, again):
        raise CoopNetError(
            f"{name} gives other logits for the same images each time, even in eval mode; make what is random a module "
            "that knows the mode, such as nn.Dropout"
        )
    return logits


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether logits are equal up to rounding: sums on a GPU may have any order."""
    return one.shape == other.shape and (one.is_meta or torch.allclose(one, other, 1e-4, 1e-5, equal_nan=True))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


class _evaluating:  # noqa: N801  (used like a function)
    """Context: eval mode without gradients; each module's mode is restored afterwards."""

    def __init__(self, *models: nn.Module):
        self.modes = [(module, module.training) for model in models for module in model.modules()]
        self.models = models

    def __enter__(self) -> None:
        for model in self.models:
            model.eval()
        self.no_grad = torch.no_grad()
        self.no_grad.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.no_grad.__exit__(*error)
        for module, mode in self.modes:
            module.training = mode


# Cutting -------------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Traces through the modules that contain the split; all other modules are leaves."""

    def __init__(self, split: str):
        super().__init__()
        self.split = split

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.split.startswith(f"{module_qualified_name}.")


def cut(model: nn.Module, split: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a model into two modules that share its submodules: everything before the module `split`, and the rest.

    Raises:
        _NoCut: it cannot be traced, or more than one tensor crosses the cut.
    """
    graph = _trace(model, split)
    nodes = [node for node in graph.nodes if node.op != "placeholder"]
    images = next(node for node in graph.nodes if node.op == "placeholder")
    place = next((i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == split), None)
    if place is None:
        raise _NoCut("it is not called where the model says what it computes")
    before, after = nodes[:place], nodes[place:]
    features = _crossing(model, images, before, after)
    given = {node for node in before if node.op == "get_attr"}  # parameters; either piece may hold them
    needed = [node for node in given if any(user in after for user in node.users)]
    result = after[-1].args[0]
    if not isinstance(result, fx.Node):
        raise _NoCut("the model gives several outputs, where one tensor of logits [N, classes] is needed")
    trunk = _piece(model, images, before, features)
    return trunk, _piece(model, features, [*needed, *after[:-1]], result)


def _trace(model: nn.Module, split: str) -> fx.Graph:
    """The graph of a model; it must be the same in training and eval mode."""
    inputs = list(_parameters_of(model.forward))
    if not inputs:
        raise _NoCut("the model takes no images")
    for name, module in model.named_modules():
        if name and not split.startswith(f"{name}."):
            continue  # it stays whole
        where = f"the module {name}" if name else "the model"
        if type(module).train is not nn.Module.train:
            raise _NoCut(
                f"{where} has a train() of its own, which the pieces would not have; move what it does inwards"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise _NoCut(f"{where} has a forward hook, which the pieces would not have; remove it")
    fixed = dict(inputs[1:])
    modes, codes, graph = [(module, module.training) for module in model.modules()], [], None
    constants: list[list[Tensor]] = []
    try:
        for mode in (True, False):
            graph = _Tracer(split).trace(model.train(mode), concrete_args=fixed or None)
            # A constant has another name in each trace, and is compared by its value.
            codes.append(re.sub(rf"{CONSTANT}\d+", CONSTANT, graph.python_code("self").src))
            names = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
            constants.append([getattr(model, name) for name in names if name.startswith(CONSTANT)])
    except Exception as error:  # the model's own code may raise anything on a proxy
        raise _NoCut(f"torch.fx cannot trace the model ({_first_line(error)})") from error
    finally:
        for module, mode in modes:
            module.training = mode
    if codes[0] != codes[1] or not all(map(torch.equal, *constants)):
        raise _NoCut(
            "the model computes something else in training than in eval mode outside of its modules; use a module, "
            "such as nn.Dropout instead of F.dropout(x, training=self.training)"
        )
    assert graph is not None
    return graph


def _parameters_of(forward: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Names and defaults of the positional parameters of `forward`."""
    for name, parameter in inspect.signature(forward).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        yield name, None if parameter.default is parameter.empty else parameter.default


def _crossing(model: nn.Module, images: fx.Node, before: Sequence[fx.Node], after: Sequence[fx.Node]) -> fx.Node:
    """The one value that is computed before the split and used after it."""
    late = set(after)
    crossing = [n for n in [images, *before] if n.op != "get_attr" and any(user in late for user in n.users)]
    if crossing == [images] or not before:
        raise _NoCut("nothing is computed before it, so there would be no trunk")
    if len(crossing) != 1:
        raise _NoCut(
            f"{len(crossing)} values are computed before it and used after it "
            f"({', '.join(str(node) for node in crossing[:4])}), where one is needed"
        )
    held, needed = (
        {
            parameter: f"{node.target}.{name}"
            for node in part
            if node.op == "call_module"
            for name, parameter in model.get_submodule(str(node.target)).named_parameters()
        }
        for part in (before, after)
    )
    for parameter, name in held.items():
        if parameter in needed:
            raise _NoCut(f"the parameter {name} is used both before and after it")
    return crossing[0]


def _piece(root: nn.Module, entry: fx.Node, nodes: Sequence[fx.Node], result: fx.Node) -> fx.GraphModule:
    """A module made of some nodes of a graph, from one value to another."""
    graph = fx.Graph()
    copies = {entry: graph.placeholder("x")}
    for node in nodes:
        if all(one in copies for one in node.all_input_nodes):  # otherwise it depends on an argument that is not passed
            copies[node] = graph.node_copy(node, lambda one: copies[one])
    if result not in copies:
        raise _NoCut("what follows needs more than the images")
    graph.output(copies[result])
    graph.lint()
    return fx.GraphModule(root, graph)


def _works_in_place(branch: nn.Module, features: Tensor) -> bool:
    """Whether a branch changes its features, in training or in eval mode."""
    for mode in (True, False):
        given = features.clone()
        dice = torch.random.fork_rng(devices=[features.device] if features.is_cuda else [])
        # Some layers do not train on a batch as small as the example.
        with torch.no_grad(), dice, contextlib.suppress(Exception):
            copy.deepcopy(branch).train(mode)(given)
        if given._version:  # it counts changes in place
            return True
    return False


def _copy_features(branch: fx.GraphModule) -> None:
    """Let a branch work on a copy of the features: it changes them in place, and others read them, too."""
    entry = next(node for node in branch.graph.nodes if node.op == "placeholder")
    with branch.graph.inserting_after(entry):
        own = branch.graph.call_method("clone", (entry,))
    entry.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)
    branch.recompile()


def _probe(
    trunk: fx.GraphModule,
    branch: fx.GraphModule,
    logits: Tensor,
    classes: int,
    example: Tensor,
    fresh: Callable[[], nn.Module] | None,
) -> Template:
    """Run both pieces on the example, and check that they compute the logits of the model."""
    try:
        with _evaluating(trunk, branch):
            features = trunk(example)
            result = branch(features)
    except Exception as error:  # any model, any error
        raise _NoCut(f"it does not take images of {list(example.shape)[1:]} ({_first_line(error)})") from error
    if not isinstance(features, Tensor):
        raise _NoCut(f"its features are a {type(features).__name__}, no tensor")
    if not _same(result, logits):
        raise _NoCut("its two pieces together compute something else than the model")
    if _works_in_place(branch, features):
        _copy_features(branch)
    channels, over = _layout(trunk, example, features)
    replaced, classifier = result.shape[1] != classes, _classifier(branch, result.shape[1])
    if replaced:
        _replace(branch, classifier, classes)
        try:
            with _evaluating(trunk, branch):
                shape = list(branch(trunk(example)).shape)
        except RuntimeError:
            shape = []
        if shape != [len(example), classes]:
            raise CoopNetError(
                f"the last layer {classifier} alone does not give the logits, so a layer for {classes} classes cannot "
                f"replace it; pass a model of {classes} classes"
            )
    return Template(trunk, branch, channels, over, classifier, replaced, None if replaced else fresh)


def _layout(trunk: nn.Module, example: Tensor, features: Tensor) -> tuple[int, tuple[int, ...]]:
    """Number of channels, and the dimensions that the gate averages over.

    Maps of square images are square. Otherwise the dimensions that grow with the images are those of space. A model
    that takes one size alone gives maps as high and wide as its images, in proportion.
    """
    match list(features.shape):
        case [_, channels]:
            return channels, ()
        case [_, _, channels] if example.dim() == 4:
            return channels, (1,)
    found = _by_proportion(example, features)
    if found and example.shape[2] == example.shape[3]:
        return found
    try:
        with _evaluating(trunk):
            larger = trunk(example.repeat(1, 1, *[2] * (example.dim() - 2)))
    except Exception:  # any model, any error: it takes images of one size alone
        if found:
            return found
        larger = features
    over = tuple(i for i in range(1, features.dim()) if larger.shape[i] != features.shape[i])
    kept = [i for i in range(1, features.dim()) if i not in over]
    if len(kept) == 1:
        return features.shape[kept[0]], over
    match list(features.shape):  # pooled to one size
        case [_, _, channels]:
            return channels, (1,)
        case [_, height, width, channels] if height == width != channels:
            return channels, (1, 2)
        case [_, channels, _, _]:
            return channels, (2, 3)
    raise _NoCut(f"the gate cannot average over features of shape {list(features.shape)}")


def _by_proportion(example: Tensor, features: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """As `_layout`, for maps as high and wide as the images, in proportion; None if that does not decide."""
    if example.dim() != 4 or features.dim() != 4:
        return None
    (_, _, high, wide), (_, first, between, last) = example.shape, features.shape
    ends_in_channels, begins_with_channels = first * wide == between * high, between * wide == last * high
    if ends_in_channels == begins_with_channels:
        return None
    return (last, (1, 2)) if ends_in_channels else (first, (2, 3))


def _classifier(branch: nn.Module, outputs: int) -> str:
    """Name of the last layer, which computes the logits."""
    for name, module in reversed(list(branch.named_modules())):
        made = getattr(module, "out_features", getattr(module, "out_channels", None))
        if isinstance(module, nn.Linear | nn.Conv2d) and made == outputs:
            return name
    raise _NoCut(f"no linear or convolutional layer after it makes the {outputs} logits")


def _replace(branch: nn.Module, name: str, classes: int) -> None:
    """Replace the last layer by a new one with `classes` outputs."""
    old = branch.get_submodule(name)
    like = next(old.parameters())
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, old.bias is not None, device=like.device, dtype=like.dtype)
    else:
        assert isinstance(old, nn.Conv2d)
        if old.kernel_size != (1, 1) or old.groups != 1:
            raise _NoCut(f"its last layer {name} cannot be given {classes} outputs; pass a model that has as many")
        new = nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None, device=like.device, dtype=like.dtype)
    parent, _, last = name.rpartition(".")
    setattr(branch.get_submodule(parent), last, new)


def _readers(branch: nn.Module) -> Iterator[str]:
    """Names of the convolutions that read the features; see `Backbone.readers`."""
    # Blocks are leaves in the branch's graph, so the readers inside a block are found by tracing the branch again.
    entry = _entry_graph(branch)
    features = next(node for node in entry.nodes if node.op == "placeholder")
    users = list(features.users)
    if [user.target for user in users] == ["clone"]:  # see `_copy_features`
        users = list(users[0].users)
    for user in users:
        module = branch.get_submodule(str(user.target)) if user.op == "call_module" else None
        plain = isinstance(module, nn.Conv2d) and module.bias is None and module.groups == 1
        plain = plain and module.padding_mode == "zeros"  # type: ignore[union-attr]
        if not plain or module.dilation != (1, 1) or isinstance(module.padding, str):  # type: ignore[union-attr]
            raise ValueError(
                f"trunk refit needs branches that read their trunk by plain convolutions without bias, not by {user}; "
                "merge with trunk first or mean, or combine the networks"
            )
        yield str(user.target)


def _entry_graph(branch: nn.Module) -> fx.Graph:
    """The graph of a branch down to single layers."""
    try:
        return fx.Tracer().trace(branch)
    except Exception as error:  # as in `_trace`
        raise ValueError(
            f"trunk refit looks into the branches, which torch.fx cannot ({_first_line(error)})"
        ) from error


# Splits that work ----------------------------------------------------------------------------------------------------


def splits(model: nn.Module) -> list[str]:
    """Names of modules at which a model can be split, in the order in which the model has them.

    Modules three levels deep are tried; others may work too.
    """
    model = copy.deepcopy(model)
    return list(_splits(model, list(_names(model))))


def _names(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Modules worth trying: up to three levels deep, without a module that starts where its parent starts."""
    for i, (name, child) in enumerate(module.named_children()):
        if i or not prefix:
            yield f"{prefix}{name}"
        if prefix.count(".") < 2:
            yield from _names(child, f"{prefix}{name}.")


def _splits(model: nn.Module, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        try:
            trunk, branch = cut(model, name)
        except _NoCut:
            continue
        learns = [any(True for _ in piece.parameters()) for piece in (trunk, branch)]
        if all(learns):
            yield name


def _advice(model: nn.Module, refused: str = "") -> str:
    """Splits that would work, for an error message."""
    working = list(_splits(model, [name for name in _names(model) if name != refused]))
    if not working:
        return (
            "no other module of it works either: torch.fx has to trace the forward of the modules that contain the "
            "split; move other code of it, such as conditions on the input, into modules of their own"
        )
    step = math.ceil(len(working) / LISTED)
    return f"these would work: {', '.join(working[::step])}"
