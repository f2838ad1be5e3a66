"""Which layers LoRA cannot adapt, or only as a whole, and why."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer

# attention classes that may read `self.qkv.weight` without calling `qkv` (measured on timm 1.0.31)
READS_QKV_WEIGHT = frozenset(
    {
        "timm.models.beit.Attention",
        "timm.models.eva.EvaAttention",
        "timm.models.swin_transformer_v2.WindowAttention",
    }
)
# classes that read the weights of these layers without calling them (torchvision 0.29, transformers 5.23)
READS_WEIGHTS: Mapping[str, frozenset[str]] = {
    "torchvision.models.swin_transformer.ShiftedWindowAttention": frozenset({"qkv", "proj"}),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": frozenset({"qkv", "proj"}),
    "transformers.models.wavlm.modeling_wavlm.WavLMAttention": frozenset({"q_proj", "k_proj", "v_proj", "out_proj"}),
}
# attention classes whose fused projection holds query, key and value head by head
HEAD_BY_HEAD = frozenset(
    {
        "timm.models.efficientformer.Attention",
        "timm.models.tiny_vit.Attention",
        "transformers.models.codegen.modeling_codegen.CodeGenAttention",
        "transformers.models.minimax.modeling_minimax.MiniMaxLightningAttention",
    }
)


def all_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return path -> module; a module with several names is listed under each."""
    return dict(model.named_modules(remove_duplicate=False))


def unsuitable_reason(layer: nn.Module) -> str | None:
    """Return why `layer` cannot be replaced by an adapted one that starts equal to it; None if it can."""
    kind = type(layer).__name__
    if is_transposed(layer):
        return f"{kind} of transformers holds its weight transposed; make it an nn.Linear, or adapt it with PEFT alone"
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return f"{kind} is neither Linear nor Conv2d"
    if is_parametrized(layer):
        return f"its parameters are computed by a parametrization ({kind})"
    if is_quantized(layer.weight):
        return f"its weight is quantized or sharded ({type(layer.weight).__name__}); adapt it before that is done"
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


def is_quantized(weight: Tensor) -> bool:
    """Return whether a weight is none of plain numbers, such as torchao's int8: a tensor that stands for others."""
    return not weight.is_floating_point() or hasattr(weight, "__tensor_flatten__")


def is_transposed(layer: nn.Module) -> bool:
    """Return whether `layer` is transformers' Conv1D, GPT-2's linear layer, whose weight is (in, out)."""
    return "transformers.pytorch_utils.Conv1D" in (
        f"{cls.__module__}.{cls.__qualname__}" for cls in type(layer).__mro__
    )


def refuse_wrapped(model: nn.Module, function: str) -> None:
    """Check that nothing is around the layers of `model` that would enter the names of adapters, or add others.

    Such are the wrappers of torch.compile (`_orig_mod`) and of several processes (`module`), and what PEFT put in.

    Args:
        model: Any module.
        function: Name of the caller, for the message.

    Raises:
        UserError: If there is.
    """
    adapted: list[str] = []
    for path, module in model.named_modules():
        name = repr(path) if path else "the network"
        if hasattr(module, "_orig_mod"):
            raise UserError(
                f"{function}: {name} is a compiled wrapper; give the module inside it (_orig_mod), and compile in "
                "place with module.compile()"
            )
        kind = type(module).__name__
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise UserError(f"{function}: {name} is wrapped in {kind}; give the module inside it (.module)")
        if isinstance(module, AdapterLayer):
            # parts of PEFT's layers are in those of its backend here
            adapted.append(path)
        elif type(module).__module__.startswith("peft.") and not any(path.startswith(f"{layer}.") for layer in adapted):
            raise UserError(
                f"{function}: {name} is PEFT's own {kind}; give the network without PEFT (merge_and_unload() merges "
                "its adapters, unload() removes them), or go on with PEFT alone"
            )


def peft_reason(layer: nn.Module) -> str | None:
    """Return why PEFT's adapter of `layer` computes something else than ours; None if it does not (peft 0.21.2)."""
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.dilation != (1, 1)):
        return "PEFT's convolution drops dilation and padding_mode"
    return None


def bypass_reason(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """Return why an adapter at `path` would have no effect; None if it acts.

    Args:
        modules: All modules of the model, see `all_modules`.
        path: Path of the layer.
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
        if parts[depth:][0] in READS_WEIGHTS.get(name, ()):
            return f"{name} reads the weight of {parts[depth]} without calling it"
    if path and (holder := _plain_list_with(modules[path], modules[path.rpartition(".")[0]])):
        return f"{holder}, a plain list, holds it too and would still call the layer without its adapter"
    return None


def _plain_list_with(layer: nn.Module, parent: nn.Module) -> str | None:
    """Return the name of a Python list in `parent` that holds `layer` beside the registered module; None without."""
    for name, value in vars(parent).items():
        if isinstance(value, list | tuple) and any(entry is layer for entry in value):
            return f"{_full_name(parent)}.{name}"
    return None


def shared_weights(model: nn.Module) -> dict[str, str]:
    """Return module path -> another name of its weight, for weights with several names: tied ones, shared modules."""
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
    """Return why an adapter at `path` would not have the effect that it should; None if it would.

    Args:
        modules: All modules of the model, see `all_modules`.
        path: Path of the layer.
        shared: Weights of the model that have several names, see `shared_weights`.
    """
    if path in shared:
        return f"it shares its weight with {shared[path]!r}, which would not be adapted"
    return bypass_reason(modules, path)


def slices_refusal(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """Return why the output of a fused projection is not query, key and value in equal thirds; None if it is.

    Args:
        modules: All modules of the model, see `all_modules`.
        path: Path of the projection.
    """
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
