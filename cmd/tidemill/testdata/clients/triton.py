"""Calls a serving endpoint with tritonclient in every way that matters, and prints what came.

Standard input is {"grpc": HOST:PORT, "http": HOST:PORT, "models": [{"name", "text", "number",
"inputs": [{"name", "datatype", "data"}]}]}, where text and number name one input of that
kind, or are empty. Standard output is one JSON object: "facts", per client what the health and
metadata calls said; "answers", one per inference; "refusals", one per wrong request. The caller
judges all of it.
"""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

OUTPUT = "prediction"
OPTIONS = {
    "priority": 1,
    "timeout": 20_000_000,
    "sequence_id": 7,
    "sequence_start": True,
    "sequence_end": True,
}


def tensor(lib, spec, columns=0, rows=None, **how):
    """Returns an input as the library wants it: [n], or [n, columns], each value repeated."""
    values = np.array(spec["data"][:rows], dtype=triton_to_np_dtype(spec["datatype"]))
    if columns:
        values = np.repeat(values, columns).reshape(len(values), columns)
    out = lib.InferInput(spec["name"], list(values.shape), spec["datatype"])
    out.set_data_from_numpy(values, **how)
    return out


def tensors(lib, model, **how):
    return [tensor(lib, spec, **how) for spec in model["inputs"]]


def answer(client, mode, model, result):
    response = result.get_response()
    if not isinstance(response, dict):
        response = {
            "model_name": response.model_name,
            "model_version": response.model_version,
            "id": response.id,
        }
    values = result.as_numpy(OUTPUT)
    return {
        "client": client,
        "mode": mode,
        "model": model["name"],
        "answered_by": response["model_name"],
        "version": response["model_version"],
        "id": response.get("id", ""),
        "datatype": str(values.dtype),
        "shape": list(values.shape),
        "values": [float(x) for x in values.flatten()],
    }


def facts(client, models, **how):
    out = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": client.get_server_metadata(**how),
        "models": {},
    }
    for model in models:
        name = model["name"]
        meta = client.get_model_metadata(name, **how)
        out["models"][name] = {
            "ready": client.is_model_ready(name),
            "version_ready": client.is_model_ready(name, meta["versions"][-1]),
            "metadata": meta,
            "of_version": client.get_model_metadata(name, meta["versions"][-1], **how),
        }
    return out


def grpc_answers(client, model):
    lib = tritonclient.grpc
    name, plain = model["name"], tensors(lib, model)
    ways = {
        "default": {},
        "gzip": {"compression_algorithm": "gzip"},
        "deflate": {"compression_algorithm": "deflate"},
        "named output": {"outputs": [lib.InferRequestedOutput(OUTPUT)]},
        "options": OPTIONS,
    }
    for mode, how in ways.items():
        yield answer("grpc", mode, model, client.infer(name, plain, request_id=mode, **how))
    matrix = tensors(lib, model, columns=1)
    yield answer("grpc", "n by 1", model, client.infer(name, matrix, request_id="n by 1"))
    done = queue.Queue()
    client.async_infer(name, plain, lambda result, error: done.put((result, error)), request_id="async")
    result, error = done.get(timeout=60)
    if error is not None:
        raise error
    yield answer("grpc", "async", model, result)


def http_answers(client, model):
    lib = tritonclient.http
    name, plain = model["name"], tensors(lib, model)
    text = tensors(lib, model, binary_data=False)
    binary_out = [lib.InferRequestedOutput(OUTPUT, binary_data=True)]
    json_out = [lib.InferRequestedOutput(OUTPUT, binary_data=False)]
    ways = {
        "default": (plain, {}),
        "binary in, json out": (plain, {"outputs": json_out}),
        "json in, binary out": (text, {"outputs": binary_out}),
        "json": (text, {"outputs": json_out}),
        "gzip": (plain, {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}),
        "deflate": (plain, {"request_compression_algorithm": "deflate", "response_compression_algorithm": "deflate"}),
        "json gzip": (text, {"request_compression_algorithm": "gzip", "outputs": json_out}),
        "options": (plain, OPTIONS),
        "n by 1": (tensors(lib, model, columns=1), {}),
    }
    for mode, (inputs, how) in ways.items():
        yield answer("http", mode, model, client.infer(name, inputs, request_id=mode, **how))
    pending = client.async_infer(name, plain, request_id="async")
    yield answer("http", "async", model, pending.get_result())


async def aio_answers(addresses, model):
    out = []
    for kind, lib in (("grpc", tritonclient.grpc.aio), ("http", tritonclient.http.aio)):
        async with lib.InferenceServerClient(addresses[kind]) as client:
            result = await client.infer(model["name"], tensors(lib, model), request_id="aio")
            out.append(answer(kind, "aio", model, result))
    return out


def refusals(kind, lib, client, model):
    """Sends requests that are wrong in one way each."""
    name, specs = model["name"], model["inputs"]

    def changed(which, **change):
        return [tensor(lib, {**s, **change} if s["name"] == which else s) for s in specs]

    first = specs[0]["name"]
    wrong = {
        "misspelt input": (name, "", changed(first, name=first + "x"), {}),
        "missing input": (name, "", tensors(lib, model)[:-1], {}),
        "input twice": (name, "", tensors(lib, model) + [tensor(lib, specs[0])], {}),
        "two columns": (name, "", [tensor(lib, s, columns=2) for s in specs], {}),
        "fewer rows": (name, "", [tensor(lib, s, rows=None if s["name"] == first else 2) for s in specs], {}),
        "unknown model": ("no_such_model", "", tensors(lib, model), {}),
        "unknown version": (name, "987654321", tensors(lib, model), {}),
        "no version": (name, "newest", tensors(lib, model), {}),
        "unknown output": (name, "", tensors(lib, model), {"outputs": [lib.InferRequestedOutput("score")]}),
    }
    rows = len(specs[0]["data"])
    if model["number"]:
        text = changed(model["number"], datatype="BYTES", data=["a word"] * rows)
        wrong["text for a number"] = (name, "", text, {})
    if model["text"]:
        number = changed(model["text"], datatype="FP32", data=[1.5] * rows)
        wrong["a number for text"] = (name, "", number, {})
    for what, (target, version, inputs, how) in wrong.items():
        try:
            client.infer(target, inputs, model_version=version, **how)
            status, message = "accepted", ""
        except InferenceServerException as e:
            status, message = e.status(), e.message()
        yield {"client": kind, "what": what, "model": name, "status": status, "message": message}


def main():
    task = json.load(sys.stdin)
    models = task["models"]
    out = {"facts": {}, "answers": [], "refusals": []}
    grpc = tritonclient.grpc.InferenceServerClient(task["grpc"])
    http = tritonclient.http.InferenceServerClient(task["http"])
    out["facts"]["grpc"] = facts(grpc, models, as_json=True)
    out["facts"]["http"] = facts(http, models)
    for model in models:
        out["answers"] += grpc_answers(grpc, model)
        out["answers"] += http_answers(http, model)
        out["answers"] += asyncio.run(aio_answers(task, model))
        out["refusals"] += refusals("grpc", tritonclient.grpc, grpc, model)
        out["refusals"] += refusals("http", tritonclient.http, http, model)
    grpc.close()
    http.close()
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
