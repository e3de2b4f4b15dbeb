"""What follows what in a network, proven from its forward code.

A batch norm may be folded only if every call of it takes the output of the same convolution, which nobody else reads.
Code that fx cannot follow is searched part by part; unknown modules stay as they are.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import fx, nn

from eachmask.backbones.fuse.conv import NO_LIMITS
from eachmask.backbones.fuse.recognize import activation_of, is_conv, is_hooked, is_norm, own_activation
from eachmask.backbones.fuse.residual import ResidualBlock, ResidualStage


class Chain(NamedTuple):
    """Names of a convolution, of the batch norm and of the activation that always follow it."""

    conv: str
    norm: str | None
    activation: str | None

    def below(self, prefix: str) -> Chain:
        """The same with the names that they have where this part of the network is named `prefix`."""
        norm, activation = (name and _join(prefix, name) for name in (self.norm, self.activation))
        return Chain(_join(prefix, self.conv), norm, activation)


def find_chains(model: nn.Module) -> list[Chain]:
    """All provable chains with a batch norm or an activation in them, whose modules are not shared with other parts."""
    places: dict[nn.Module, int] = defaultdict(int)
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] += 1
    chains = []
    for prefix, graph in _graphs(model, ""):
        calls = _Calls(model.get_submodule(prefix), graph)
        for chain in filter(None, map(calls.chain_from, calls.names())):
            if all(places[calls.module(name)] == 1 for name in chain if name):
                chains.append(chain.below(prefix))
    return chains


class _Calls:
    """The calls of modules in a part that fx could follow."""

    def __init__(self, part: nn.Module, graph: fx.Graph) -> None:
        self.part = part
        self.nodes: dict[str, list[fx.Node]] = defaultdict(list)
        self.read: set[str] = set()
        """Modules whose parameters the forward code also uses by itself."""
        for node in graph.nodes:
            if node.op == "call_module":
                self.nodes[str(node.target)].append(node)
            elif node.op == "get_attr":
                self.read.add(str(node.target).rpartition(".")[0])

    def names(self) -> list[str]:
        """Of all modules that are called."""
        return list(self.nodes)

    def chain_from(self, name: str) -> Chain | None:
        """The chain that begins with this module, if it is a convolution with something to fold behind it."""
        conv = self.module(name)
        if not is_conv(conv) or not self._may_change(name):
            return None
        norm = self._next(name, lambda module: is_norm(module, conv))
        if norm is not None and own_activation(self.module(norm)) != NO_LIMITS:
            return Chain(name, norm, None)
        activation = self._next(norm or name, lambda module: activation_of(module) is not None)
        return Chain(name, norm, activation) if norm or activation else None

    def _next(self, name: str, fits: Callable[[nn.Module], bool]) -> str | None:
        found = self._follower(name)
        return found if found is not None and fits(self.module(found)) else None

    def _follower(self, name: str) -> str | None:
        """The one module that reads all outputs of `name`, and nothing else."""
        readers = [list(node.users) for node in self.nodes[name]]
        if any(len(users) != 1 or users[0].op != "call_module" for users in readers):
            return None
        targets = {str(users[0].target) for users in readers}
        if len(targets) != 1:
            return None
        (found,) = targets
        calls = self.nodes[found]
        alone = len(calls) == len(self.nodes[name]) and all(len(n.args) == 1 and not n.kwargs for n in calls)
        return found if alone and self._may_change(found) else None

    def _may_change(self, name: str) -> bool:
        return name not in self.read and not is_hooked(self.module(name))

    def module(self, name: str) -> nn.Module:
        """By its name in the part."""
        return self.part.get_submodule(name)


def _graphs(module: nn.Module, prefix: str) -> Iterator[tuple[str, fx.Graph]]:
    """Traces of the largest parts that fx can follow, with the name of each part."""
    if not _is_worth_tracing(module):
        return
    tracer = _Tracer()
    try:
        graph = tracer.trace(module, concrete_args=_defaults(module.forward))
        yield prefix, graph
        yield from _not_called(module, prefix, graph)
    except Exception:  # the forward code decides by values, loops over inputs, ...: any error may come of it
        for name, child in module.named_children():
            yield from _graphs(child, _join(prefix, name))
    finally:
        tracer.__dict__.clear()  # it refers to itself, and would keep the modules that are exchanged for a long time


def _not_called(module: nn.Module, prefix: str, graph: fx.Graph) -> Iterator[tuple[str, fx.Graph]]:
    """Parts that the forward code leaves to other verbs, such as the decoder of a network that answers prompts."""
    used = {str(node.target).partition(".")[0] for node in graph.nodes if node.op in ("call_module", "get_attr")}
    for name, child in module.named_children():
        if name not in used:
            yield from _graphs(child, _join(prefix, name))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _is_worth_tracing(m)


def _is_worth_tracing(module: nn.Module) -> bool:
    """True for a module made of parts, some of which might be folded."""
    inner = [m for m in module.modules() if m is not module]
    return any(is_conv(m) for m in inner) and not isinstance(module, (ResidualBlock, ResidualStage))


def _defaults(forward: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
