"""What torch's operators can be trusted with: which of their formulas may be differentiated again, and how.

Autograd names every operation of a loss. Whether the derivative of its backward formula is right was found by running all of
torch's operator database in float64 against finite differences (``benchmarks/operators.py``; a slow test repeats it):

* reverse over reverse is wrong for a few, which are refused by name, and missing for some, which torch says itself;
* forward over reverse is trusted for the operators listed here. Of the others some raise, and some give a wrong number without a
  word (``det``, ``slogdet``, ``solve``, ``prod``, ``cumprod``: with the graph off their backward formulas take a path that loses
  tangents), so a product through any other operator is taken by reverse over reverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ambient import CannotDifferentiate

# names as autograd has them; "Backward0" at the end is left out
_TRUSTED = """
Abs Acos Acosh AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D Add AddBackward1 Addbmm
Addcdiv Addcmul Addmm Addmv Addr Alias AliasBackward0_copy Amax Amin Aminmax Angle AsStrided AsStridedBackward0_copy
Asin Asinh Atan2 Atan Atanh AvgPool2D AvgPool3D Baddbmm Bernoulli BinaryCrossEntropy BinaryCrossEntropyWithLogits
BlockDiag Bmm Cat Ceil Celu ChannelShuffle CholeskyInverse CholeskySolve Clamp ClampBackward1 ClampMaxBackward1
ClampMin ClampMinBackward1 Clone Complex Conj ConjPhysical ConstantPadNd Convolution Copysign CopysignBackward1 Cos
Cosh CudnnBatchNorm Cummax Cummin Cumsum Deg2Rad DiagEmbed Diagonal DiagonalBackward0_copy DiagonalScatter Digamma Dist Div
DivBackward1 DivBackward2 Dot Elu Embedding Erf Erfc Erfinv Exp2 Exp Expand ExpandBackward0_copy Expm1 FftC2C FftC2R
FftR2C Fill Flip Floor Fmax Fmin FmodBackward1 Frac FractionalMaxPool2D FractionalMaxPool3D Frexp Gather Gelu Glu
Hardshrink Hardswish Hardtanh Hypot I0 Im2Col IndexAdd Index IndexCopy IndexFill IndexFillBackward1 IndexPut
IndexSelect Kthvalue Ldexp LeakyRelu Lerp LerpBackward1 Lgamma LinalgCholeskyEx LinalgCross LinalgEig LinalgEigh
LinalgHouseholderProduct LinalgInvEx LinalgLstsq LinalgLu LinalgLuFactorEx LinalgLuSolve LinalgMatrixExp
LinalgMatrixSqrth LinalgPinv LinalgPolar LinalgQr LinalgSolveTriangular LinalgSvd LinalgVectorNorm Log10 Log1P Log2
Log LogSigmoid LogSoftmax Logaddexp2 Logaddexp Logcumsumexp Logsumexp LuUnpack MaskedFill MaskedFillBackward1
MaskedScatter MaskedSelect Max MaxBackward1 MaxPool2DWithIndices MaxPool2DWithIndicesBackward MaxPool3DWithIndices
Maximum Mean MeanBackward1 Median MedianBackward1 Min MinBackward1 Minimum Mm Mode MseLoss Mul MulBackward1 Mv
Mvlgamma NanToNum Nanmedian NanmedianBackward1 Nansum NarrowCopy NativeBatchNorm NativeBatchNormLegit
NativeLayerNorm Neg NegView Nextafter NllLoss2D NllLoss NormBackward1 Permute PermuteBackward0_copy PixelShuffle
PixelUnshuffle Polar Polygamma Pow PowBackward1 PreluKernel ProdBackward1 Put Rad2Deg Reciprocal ReflectionPad1D
ReflectionPad2D ReflectionPad3D Relu RemainderBackward1 Renorm Repeat ReplicationPad1D ReplicationPad2D
ReplicationPad3D ReshapeAlias Roll Rot90 Round RoundBackward1 RreluWithNoise Rsqrt Rsub SafeSoftmax ScatterAdd
Scatter ScatterBackward1 Select SelectScatter Sgn Sigmoid Sign Sin Sinc Sinh Slice SmoothL1Loss Softmax
SoftmaxBackwardData Softplus Softshrink Sort SortBackward1 SpecialEntr SpecialErfcx SpecialI0E SpecialI1 SpecialI1E
SpecialLogNdtr SpecialNdtri SpecialXlog1Py Split SplitWithSizes SplitWithSizesBackward0_copy Sqrt Squeeze
SqueezeBackward0_copy SqueezeBackward1 SqueezeBackward1_copy SqueezeBackward2 SqueezeBackward4 Stack Std StdMean Sub
SubBackward1 Sum SumBackward1 T TBackward0_copy Take Tan Tanh Threshold ToCopy Topk Trace Transpose
TransposeBackward0_copy TransposeBackward1 Tril Trilinear Triu Trunc Unbind UnbindBackward0_copy Unfold
UnfoldBackward0_copy UnsafeMaskedIndex UnsafeMaskedIndexPutAccumulate UnsafeSplit UnsafeView Unsqueeze
UnsqueezeBackward0_copy UnsqueezeBackward1 UpsampleBicubic2D UpsampleBilinear2D UpsampleLinear1D UpsampleNearest1D
UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D UpsampleNearestExact3D
UpsampleTrilinear3D Var VarMean Vdot ViewAsComplex ViewAsReal View ViewBackward0_copy Where Xlogy Zero
torch::autograd::AccumulateGrad torch::autograd::CopyBackwards torch::autograd::CopySlices
CopyToRanksBackward ReduceFromRanksBackward GatherShardsBackward ScatterToShardsBackward
"""

FORWARD_OVER_REVERSE = frozenset(
    name if "Backward" in name or "::" in name else f"{name}Backward0" for name in _TRUSTED.split()
)

# operator, as found in autograd's name for it -> what to do instead
WRONG_SECOND_DERIVATIVE = {
    "WeightNormInterface": "torch's fused weight norm has a wrong second derivative; use the parametrization of "
    "torch.nn.utils.parametrizations.weight_norm in a FunctionalModel, or g * v / v.norm(...)",
    "linear_cross_entropy": "torch's chunked linear_cross_entropy has a wrong second derivative; use "
    "F.cross_entropy(F.linear(input, weight), target)",
}


def names_of(loss: Tensor, inputs: Iterable[Any] = ()) -> set[str]:
    """Autograd's names of all operations that lead to the loss, from leaves or from the inputs on."""
    seen = {getattr(leaf, "grad_fn", None) for leaf in inputs}
    seen.add(None)
    if loss.grad_fn in seen:
        return set()
    seen.add(loss.grad_fn)
    nodes: list[Any] = [loss.grad_fn]
    names = set()
    for node in nodes:  # which grow on the way
        names.add(node.name())
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                nodes.append(following)
    return names


def untrusted(loss: Tensor) -> str | None:
    """An operation on the way to the loss through which forward mode over reverse mode is missing or not to be trusted."""
    return min(
        (name for name in names_of(loss) - FORWARD_OVER_REVERSE if not name.endswith("AccumulateGrad")), default=None
    )


def require_second_derivative(
    loss: Tensor, inputs: Iterable[Any], slopes: Sequence[Tensor | None] | None = None
) -> None:
    """Checks that reverse mode over reverse mode is right for everything on the way from the inputs to the loss.

    Args:
        slopes: the loss's gradient, with a graph: where an operation is new, it is differentiated here, so that a second
            derivative which torch does not have is missed now and not in the reverse pass.

    Raises:
        CannotDifferentiate: naming the operation, and another one that is right. RuntimeError: torch's own where there is none.
    """
    inputs = list(inputs)
    names = names_of(loss, inputs)
    if not names <= _found_right:
        for part, way in WRONG_SECOND_DERIVATIVE.items():
            if any(part in name for name in names):
                raise CannotDifferentiate(way)
        if _passes_through_a_constant_slope(loss, inputs):
            raise CannotDifferentiate(_ONCE)
        # functions of one's own, whose names have no number, are looked at each time: it is the way to them that counts
        _found_right.update(name for name in names if not name.endswith("Backward"))
    if slopes is not None and not names <= _differentiated_twice:
        through = [slope for slope in slopes if slope is not None and slope.requires_grad]
        if through:
            ones = [torch.ones_like(slope) for slope in through]
            torch.autograd.grad(through, inputs, ones, retain_graph=True, allow_unused=True)
        _differentiated_twice.update(names)


def _passes_through_a_constant_slope(loss: Tensor, inputs: Sequence[Any]) -> bool:
    """Whether a custom function that torch differentiates once lies between: its slope may come as a constant."""
    ends = {getattr(leaf, "grad_fn", None) for leaf in inputs} - {None}
    leaves = {id(leaf) for leaf in inputs}

    def leads_there(node: Any) -> bool:
        seen, todo = {node}, [node]
        while todo:
            at = todo.pop()
            if at in ends or id(getattr(at, "variable", None)) in leaves:
                return True
            new = {following for following, _ in at.next_functions if following is not None} - seen
            seen |= new
            todo += new
        return False

    seen, todo = set(ends), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        backward = getattr(getattr(type(node), "_forward_cls", None), "backward", None)
        if getattr(backward, "__code__", None) is _ONLY_ONCE and leads_there(node):
            return True
        todo.extend(following for following, _ in node.next_functions)
    return False


_ONLY_ONCE = once_differentiable(lambda ctx: None).__code__  # of the wrapper, which all such functions share
_ONCE = (
    "a custom autograd function in the loss can be differentiated only once: compose it of other operations, or give its "
    "backward a derivative of its own"
)
_found_right: set[str] = set()  # names that were looked at: there are a few hundred in all
_differentiated_twice: set[str] = set()


_MISSING = (
    (r"derivative for aten::(\w+?)(?:_backward)? is not implemented", "torch has no second derivative of {0}"),
    (r"derivative for '(\w+?)(?:_backward)?' is not implemented", "torch has no second derivative of {0}"),
    (r"once_differentiable|marked with @once", "a custom autograd function in the loss can be differentiated only once"),
    (r"use_reentrant=True", "activation checkpointing with use_reentrant=True cannot be differentiated twice"),
    (r"[Dd]ouble backwards? is not (?:implemented|supported)[^.;]*", "{whole}"),
    (r"aot_autograd does not|create_graph=False", "a compiled function in the loss cannot be differentiated twice"),
    (r"don't support automatic differentiation|undefined Tensor in C\+\+", "torch has no second derivative of an operation"),
    (r"modified by an inplace operation", "a loss changes a tensor in place that its gradient needs"),
    (r"element 0 of tensors does not require grad", "the loss does not depend on what it is differentiated with respect to"),
    (r"[Ii]nference tensors cannot be saved", "the loss uses a tensor made under inference_mode; clone it outside"),
)  # fmt: skip
_WAYS = {
    "embedding_bag": "use F.embedding(...).sum(1) or .mean(1)",
    "hardsigmoid": "use F.relu6(x + 3) / 6",
    "cudnn_rnn": "use nn.LSTM, nn.GRU or nn.RNN in a FunctionalModel, or torch.backends.cudnn.flags(enabled=False) around it",
    "multi_margin_loss": "write it with clamp and gather",
    "multilabel_margin_loss": "write it with clamp and gather",
    "use_reentrant": "pass use_reentrant=False (Hugging Face: gradient_checkpointing_enable(gradient_checkpointing_kwargs="
    "{'use_reentrant': False}))",
    "aot_autograd": "pass it uncompiled and wrap the whole inner loss, Compiled(inner_loss)",
    "create_graph": "pass it uncompiled and wrap the whole inner loss, Compiled(inner_loss)",
    "inplace": "work on a copy, or use the operation without the underscore",
    "require grad": "look for detach(), no_grad or item() on the way",
    "nference": "move its making out of inference_mode",
}


def in_words(error: Exception) -> str | None:
    """One sentence for torch's error where it says that a second derivative is missing, else None."""
    text = str(error).splitlines()[0] if str(error) else ""
    for pattern, sentence in _MISSING:
        found = re.search(pattern, text)
        if found:
            whole = sentence.format(*found.groups(), whole=found[0])
            way = next((way for part, way in _WAYS.items() if part in text), "compose it of other operations")
            return f"{whole}: {way}, or use an estimator without second derivatives (first_order, finite_difference, approx)"
    return None
