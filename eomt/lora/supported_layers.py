"""Layers that LoRA cannot adapt, or only as a whole, and why."""

from collections.abc import Mapping

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from eomt.errors import UserError

# Attention classes that may read `self.qkv.weight` without calling `qkv` (facts measured on timm 1.0.31).
READS_QKV_WEIGHT = frozenset(
    {
        "timm.models.beit.Attention",
        "timm.models.eva.EvaAttention",
        "timm.models.swin_transformer_v2.WindowAttention",
    }
)
# Attention classes whose fused projection holds query, key and value head by head.
HEAD_BY_HEAD = frozenset(
    {
        "timm.models.efficientformer.Attention",
        "timm.models.tiny_vit.Attention",
        "transformers.models.codegen.modeling_codegen.CodeGenAttention",
        "transformers.models.minimax.modeling_minimax.MiniMaxLightningAttention",
    }
)


def all_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module under every name that it has."""
    return dict(model.named_modules(remove_duplicate=False))


def unsuitable_reason(layer: nn.Module) -> str | None:
    """Why `layer` cannot be replaced by an adapted one that starts equal to it, or None if it can."""
    kind = type(layer).__name__
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return f"{kind} is neither Linear nor Conv2d"
    if is_parametrized(layer):
        return f"its parameters are computed by a parametrisation ({kind})"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return f"it has forward hooks, which an adapted layer would drop ({kind})"
    own = "forward" in vars(layer)
    if isinstance(layer, nn.Linear):
        own = own or type(layer).forward is not nn.Linear.forward
    else:
        own = own or type(layer).forward is not nn.Conv2d.forward
        own = own or type(layer)._conv_forward is not nn.Conv2d._conv_forward
        if not own and layer.groups != 1:
            return f"a convolution with groups={layer.groups} has no low-rank form"
    return f"{type(layer).__module__}.{kind} has a forward of its own" if own else None


def refuse_compiled(model: nn.Module, function: str) -> None:
    """That no module of `model` is a wrapper that torch.compile made: it would enter the names of adapters.

    Raises:
        UserError: if one is.
    """
    for path, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            name = repr(path) if path else "the network"
            raise UserError(
                f"{function}: {name} is a compiled wrapper; give the module inside it (_orig_mod), and compile in "
                "place with module.compile()"
            )


def peft_reason(layer: nn.Module) -> str | None:
    """Why PEFT's adapter of `layer` computes something else than ours, or None if it does not (peft 0.21.2)."""
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.dilation != (1, 1)):
        return "PEFT's convolution drops dilation and padding_mode"
    return None


def bypass_reason(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """Why an adapter at `path` would have no effect, or None if it acts.

    Args:
        modules: of the whole model, see `all_modules`.
    """
    parts = path.split(".") if path else []
    for depth in range(len(parts)):
        parent = modules[".".join(parts[:depth])]
        if isinstance(parent, nn.MultiheadAttention):
            return "torch.nn.MultiheadAttention reads the weights of its projections without calling them"
        if isinstance(parent, nn.TransformerEncoderLayer):
            return "the fast path of torch.nn.TransformerEncoderLayer reads its weights without calling it in eval mode"
        name = _full_name(parent)
        reads = getattr(parent, "q_bias", None) is not None and not getattr(parent, "qkv_bias_separate", False)
        if name in READS_QKV_WEIGHT and parts[depth:] == ["qkv"] and reads:
            return f"{name} reads qkv.weight without calling qkv"
    return None


def shared_weights(model: nn.Module) -> dict[str, str]:
    """Module path -> another name of its weight, for weights that have several: tied ones, modules held twice."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found = {}
    for several in names.values():
        for name in several:
            other = next((other for other in several if other != name), None)
            if other is not None and name.endswith("weight"):
                found[name.rpartition(".")[0]] = other
    return found


def refusal(modules: Mapping[str, nn.Module], path: str, shared: Mapping[str, str]) -> str | None:
    """Why an adapter at `path` would not do what it says, or None if it would.

    Args:
        modules, shared: of the whole model, see `all_modules` and `shared_weights`.
    """
    if path in shared:
        return f"it shares its weight with {shared[path]!r}, which would not be adapted"
    return bypass_reason(modules, path)


def slices_refusal(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """Why the fused projection at `path` has no slices query, key, value: equal thirds, one after the other."""
    layer, parent = modules[path], modules[path.rpartition(".")[0]]
    name = _full_name(parent)
    if getattr(parent, "head_first", False) or name in HEAD_BY_HEAD:
        return f"{name} holds query, key and value head by head"
    if not isinstance(layer, nn.Linear):
        return f"{type(layer).__name__} is no Linear"
    if getattr(parent, "num_key_value_groups", 1) != 1:
        return f"{name} has fewer keys and values than queries (grouped-query attention)"
    heads, width = getattr(parent, "num_heads", None), getattr(parent, "head_dim", None)
    unequal = isinstance(heads, int) and isinstance(width, int) and 3 * heads * width != layer.out_features
    if unequal or layer.out_features % 3:
        return f"the {layer.out_features} outputs are not query, key and value of one width ({name})"
    return None


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
