"""Drives the emulator's compatible face with the official OpenAI package: python compatible_sdk.py BASE_URL

BASE_URL is the face's, for example http://127.0.0.1:4711/compatible/v1. What each preset of switches makes of the
protocol is still what the package takes; Azure is driven by the package's own class for it.
Ends with status 0 and one line per step, or with a traceback.
"""

import hashlib
import io
import json
import sys
import urllib.request

import openai

base_url = sys.argv[1]
root = base_url.removesuffix("/v1")
control = base_url.split("/compatible/")[0] + "/emulator"
client = openai.OpenAI(base_url=base_url, api_key="sk-sdk", max_retries=0)


def step(name):
    print("ok", name)


def control_call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(control + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def preset(name, **switches):
    control_call("POST", "/reset")
    control_call("POST", "/faces/compatible", {"preset": name, **switches})


def prompt_hash(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def user(text):
    return [{"role": "user", "content": text}]


def asked(client, text="hello", model="small-model", **more):
    chat = client.chat.completions.create(model=model, messages=user(text), **more)
    assert prompt_hash(text) in chat.choices[0].message.content
    return chat


def rows(url="/v1/chat/completions"):
    lines = [json.dumps({"custom_id": f"r-{n}", "method": "POST", "url": url,
                         "body": {"model": "small-model", "messages": user(f"question {n}")}}) for n in range(20)]
    return io.BytesIO(("\n".join(lines) + "\n").encode())


def run_batch(client, endpoint="/v1/chat/completions"):
    file = client.files.create(file=("in.jsonl", rows(endpoint)), purpose="batch")
    if file.status == "pending":
        raises(openai.BadRequestError, lambda: client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"))
        control_call("POST", "/clock", {"advance": "2m"})
        assert client.files.retrieve(file.id).status == "processed"
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    control_call("POST", "/clock", {"advance": "1h"})
    batch = client.batches.retrieve(batch.id)
    assert batch.status.lower() == "completed", batch
    results = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert len(results) == 20
    for row in results:
        number = row["custom_id"].split("-")[1]
        assert prompt_hash(f"question {number}") in row["response"]["body"]["choices"][0]["message"]["content"]
    return batch


# Local servers: any key or none, no batches.
for name in ("ollama", "vllm"):
    preset(name)
    asked(client)
    asked(client, extra_headers={"Authorization": openai.Omit()})
    raises(openai.NotFoundError, lambda: client.batches.list().data)
step("local servers")

# Paths with and without what clients put there.
preset("plain")
for path in ("", "/v1", "/v1/", "/openai/v1", "/api/v1"):
    asked(openai.OpenAI(base_url=root + path, api_key="sk-sdk", max_retries=0))
step("base paths")

preset("deepseek")
chat = asked(client, model="thinking-model")
assert chat.choices[0].message.reasoning_content
step("deepseek")

preset("openrouter")
asked(client)
# An error inside a success passes for an answer in the package; its body tells.
answer = client.chat.completions.with_raw_response.create(model="small-model", messages=user("[[error:429]]"))
assert answer.status_code == 200 and json.loads(answer.text)["error"]["code"] == 429
step("openrouter")

preset("doubleword")
batch = run_batch(client)
assert "error_file_id" not in batch.model_fields_set
step("doubleword")

# Azure: the package's own class, in both its forms.
preset("azure")
dated = openai.AzureOpenAI(azure_endpoint=root, api_key="k", api_version="2024-10-21", max_retries=0)
asked(dated)
batch = run_batch(dated, "/chat/completions")
assert batch.status == "Completed" and isinstance(batch.created_at, str)
error = raises(openai.BadRequestError, lambda: asked(dated, "[[filter]]"))
assert error.code == "content_filter"
raises(openai.NotFoundError, lambda: asked(dated, model="nobody"))
preset("azure")
run_batch(openai.OpenAI(base_url=root + "/openai/v1", api_key="k", max_retries=0))
step("azure")
