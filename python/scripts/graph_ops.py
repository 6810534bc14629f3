"""Writes internal/graphfile/ops.go, the table of ops that a graph file may use, from TensorFlow's registry, and what the
export needs of it, src/tidemill/keras/_ops.py.

    python scripts/graph_ops.py            writes it
    python scripts/graph_ops.py --check    fails where it is not what would be written

Which ops are in it is decided here. They compute numbers from numbers and nothing else: no file, network, Python, resource,
queue, string, output, random draw, function or loop.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
from typing import Any

NAMES = """
Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh
AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd BiasAddGrad
BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize Cast Ceil ClipByValue Concat
ConcatOffset ConcatV2 Const Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D Conv3DBackpropFilterV2
Conv3DBackpropInputV2 Cos Cosh Cross Cumprod Cumsum DepthToSpace DepthwiseConv2dNative
DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Diag DiagPart Digamma Div DivNoNan
DynamicStitch Einsum Elu EluGrad EnsureShape Equal Erf Erfc Erfinv EuclideanNorm Exp ExpandDims Expm1 Fill Floor FloorDiv
FloorMod FusedBatchNormGradV3 FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual Identity IdentityN
Inv InvGrad Invert InvertPermutation IsFinite IsInf IsNan L2Loss LRN LRNGrad LeakyRelu LeakyReluGrad LeftShift Less
LessEqual Lgamma LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul MatrixBandPart MatrixDiagPartV3
MatrixDiagV3 MatrixSetDiagV3 Max MaxPool MaxPool3D MaxPool3DGrad MaxPoolGrad Maximum Mean Min Minimum MirrorPad
MirrorPadGrad Mod Mul MulNoNan Ndtri Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2 Placeholder Polygamma Pow
PreventGradient Prod Range Rank RealDiv Reciprocal ReciprocalGrad Relu Relu6 Relu6Grad ReluGrad Reshape ReverseV2
ReverseSequence RightShift Rint Roll Round Rsqrt RsqrtGrad ScatterNd SegmentMax SegmentMean SegmentMin SegmentSum Select SelectV2
Selu SeluGrad Shape ShapeN Sigmoid SigmoidGrad Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyWithLogits
Softplus SoftplusGrad Softsign SoftsignGrad SpaceToBatchND SpaceToDepth SparseSoftmaxCrossEntropyWithLogits Split SplitV
Sqrt SqrtGrad Square SquaredDifference Squeeze StopGradient StridedSlice StridedSliceGrad Sub Sum Tan Tanh TanhGrad
TensorScatterAdd TensorScatterUpdate Tile TopKV2 Transpose ConjugateTranspose TruncateDiv TruncateMod Unpack
UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum Where Xdivy Xlog1py Xlogy ZerosLike Zeta
"""
OPS = NAMES.split()

# Types of numbers that a graph may hold: float32, float64, int32, uint8, int16, int8, int64, bool, bfloat16, uint16, half,
# uint32, uint64.
TYPES = {1, 2, 3, 4, 5, 6, 9, 10, 14, 17, 19, 22, 23}
# Why other ops are refused and what to do, by a part of their name; the first that fits counts.
REFUSED: list[tuple[str, str, str]] = [
    ("PyFunc NumpyFunction", "calls Python", "write the layer with keras.ops"),
    (
        "ReadFile WriteFile Save Restore MatchingFiles Checkpoint FileSystem TextFile LMDB ImmutableConst Sql Dump",
        "touches files",
        "read the data into the topic, and load weights before the export",
    ),
    ("Rpc Collective Send Recv RemoteCall", "talks over the network", "export the model without a distribution strategy"),
    (
        "Print Summary Debug Audio Abort Assert CheckNumerics Timestamp",
        "prints, logs or checks",
        "remove prints, summaries and assertions from the model",
    ),
    (
        "Dataset Iterator Queue Stage Reader Barrier Accumulator MapClear",
        "reads from a queue or data set",
        "feed the rows through the topic",
    ),
    (
        "HashTable LookupTable String Regex Unicode Substr DecodeRaw DecodeBase64 DecodeCSV Example",
        "works on text",
        "leave text layers such as StringLookup out of the model: a feature's hash or vocabulary makes the ids",
    ),
    (
        "VarHandle Variable Assign Resource Mutex Handle Anonymous",
        "keeps state of its own",
        "export the model with tidemill.keras.export, which makes variables inputs",
    ),
    (
        "Random Multinomial Rng TruncatedNormal StatefulStandard StatefulUniform Shuffle Sampler NonDeterministic",
        "draws random numbers",
        "use keras.layers.Dropout, whose numbers are functions of the example; those of other layers cannot be repeated",
    ),
    (
        "While If Case For Switch Merge Enter Exit NextIteration LoopCond TensorList TensorArray Stack Call Symbolic Stateless",
        "loops, branches or calls a function",
        "give recurrent layers unroll=True and a fixed length, and write branches with keras.ops.where",
    ),
    ("Xla _Mkl _Fused", "belongs to one compiler", "export the model with jit_compile=False, on a CPU"),
    (
        "Quant Sparse Ragged FFT Complex Real Imag Image Jpeg Png Decode Encode Proto",
        "is for data that a graph does not get",
        "make numbers of it before the topic",
    ),
]

KINDS = {"int", "float", "bool", "type", "shape", "tensor", "string", "list(int)", "list(float)", "list(type)"}
MASK_ALL = sum(1 << t for t in TYPES)


def quoted(s: str) -> str:
    return '"' + s + '"'


def arg(a: Any) -> str:
    parts = []
    if a.type_list_attr:
        parts.append(f"list: {quoted(a.type_list_attr)}")
    elif a.type_attr:
        parts.append(f"attr: {quoted(a.type_attr)}")
    else:
        if a.type not in TYPES:
            raise SystemExit(f"argument {a.name} has type {a.type}")
        parts.append(f"fixed: {a.type}")
    if a.number_attr:
        parts.append(f"number: {quoted(a.number_attr)}")
    if a.is_ref:
        raise SystemExit(f"argument {a.name} is a reference")
    return "{" + ", ".join(parts) + "}"


def attribute(a: Any) -> str:
    if a.type not in KINDS:
        raise SystemExit(f"attribute {a.name} is a {a.type}")
    parts = [f"name: {quoted(a.name)}", f"kind: {quoted(a.type)}"]
    if a.HasField("default_value"):
        parts.append("optional: true")
        if a.type == "int":
            parts.append(f"value: {a.default_value.i}")
        if a.type == "type":
            parts.append(f"value: {a.default_value.type}")
    if a.has_minimum:
        parts.append(f"bounded: true, least: {a.minimum}")
    if a.type in ("type", "list(type)"):
        allowed = set(a.allowed_values.list.type) & TYPES if a.HasField("allowed_values") else TYPES
        parts.append(f"types: {sum(1 << t for t in allowed):#x}")
    elif a.HasField("allowed_values"):
        parts.append("texts: []string{" + ", ".join(quoted(v.decode()) for v in a.allowed_values.list.s) + "}")
    return "{" + ", ".join(parts) + "}"


def table() -> str:
    from tensorflow.python.framework import op_def_registry

    lines = [
        "// Code generated by python/scripts/graph_ops.py from TensorFlow's registry. DO NOT EDIT.",
        "",
        "package graphfile",
        "",
        "// numeric has a bit for each type that a tensor may have.",
        f"const numeric types = {MASK_ALL:#x}",
        "",
        "// signatures are the ops that a graph may use.",
        "var signatures = map[string]signature{",
    ]
    for name in sorted(set(OPS)):
        op = op_def_registry.get(name)
        if op is None:
            raise SystemExit(f"TensorFlow has no op {name}")
        if op.is_stateful and name not in ("NoOp",):
            raise SystemExit(f"op {name} has state")
        lines.append(f"\t{quoted(name)}: {{")
        for field, values in (("in", [arg(a) for a in op.input_arg]), ("out", [arg(a) for a in op.output_arg])):
            if values:
                lines.append(f"\t\t{field}: []arg{{{', '.join(values)}}},")
        if op.attr:
            lines.append("\t\tattrs: []attribute{")
            lines += [f"\t\t\t{attribute(a)}," for a in op.attr]
            lines.append("\t\t},")
        lines.append("\t},")
    lines += [
        "}",
        "",
        "// refused says why ops are not in the table, and what to do, by a part of their name; the first",
        "// that fits counts.",
    ]
    lines += ["var refused = []refusal{"]
    for parts, what, remedy in REFUSED:
        lines.append("\t{[]string{" + ", ".join(quoted(p) for p in parts.split()) + f"}}, {quoted(what)}, {quoted(remedy)}}},")
    lines.append("}")
    text = "\n".join(lines) + "\n"
    return subprocess.run(["gofmt"], input=text, capture_output=True, text=True, check=True).stdout


def module() -> str:
    lines = ['"""Generated by scripts/graph_ops.py: the ops that a graph file may use, and why others are refused."""', ""]
    lines += ["OPS = frozenset(", '    """']
    line = "   "
    for name in sorted(set(OPS)):
        if len(line) + len(name) > 120:
            lines.append(line)
            line = "   "
        line += " " + name
    lines += [line, '    """.split()', ")", "", "REFUSED = ("]
    for parts, what, remedy in REFUSED:
        lines += [
            "    (",
            f"        {quoted(parts)}.split(),",
            f"        {quoted(what)},",
            f"        {quoted(remedy)},",
            "    ),",
        ]
    return "\n".join([*lines, ")"]) + "\n"


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = flags.parse_args().check
    root = pathlib.Path(__file__).resolve().parents[2]
    stale = 0
    for path, text in (
        (root / "internal" / "graphfile" / "ops.go", table()),
        (root / "python" / "src" / "tidemill" / "keras" / "_ops.py", module()),
    ):
        if not check:
            path.write_text(text)
        elif path.read_text() != text:
            print(f"{path.name} is not what {pathlib.Path(__file__).name} writes: run it", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
